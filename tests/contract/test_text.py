"""Untrusted text is shown as plain text: no cursor movements, line ends or hidden characters."""

from __future__ import annotations

import pytest

from axiom_protocol.manifest import read_manifest
from axiom_protocol.messages import Grant, SyncAnswer
from axiom_protocol.text import one_line, plain, plain_message
from tests.support.programs import FIXTURES


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("Grüße, 中文, न\u200dम, 🙂", "Grüße, 中文, न\u200dम, 🙂"),
        ("\x1b[2J\x1b]0;owned\x07red", "[2J]0;ownedred"),
        ("\x9b31mred", "31mred"),
        ("Ada\u200b\u2060\ufeff", "Ada"),
        ("\u202eevil\u2066", "evil"),
        ("a\0b\x08c\x7f", "abc"),
    ],
)
def test_only_what_can_be_seen_is_kept(written: str, shown: str) -> None:
    assert plain(written) == shown


def test_lines_are_kept_or_joined() -> None:
    assert plain("one\n\ttwo\r\n") == "one\n\ttwo\n"
    assert one_line(" one\n\ttwo\u2028three\r\n") == "one two three"


def test_a_server_that_is_taken_over_cannot_write_on_a_volunteers_terminal() -> None:
    """Every text of an answer except parameters, which are limited by the signed ranges."""
    grant = Grant(
        task_id=1, experiment="a\x1b[2J", version="1", sha256="0" * 64, parameters={"p": "a  b"},
        seed=1, budget_seconds=1, lease_seconds=1,
    )  # fmt: skip
    answer = SyncAnswer(
        request_id="r", next_sync_seconds=1, notices=["new\nline\x1b[A"], grants=[grant]
    )
    shown = plain_message(answer)
    assert shown.notices == ["new line[A"]
    assert shown.grants[0].experiment == "a[2J"
    assert shown.grants[0].parameters == {"p": "a  b"}


def test_a_text_parameter_without_choices_is_what_staff_signed() -> None:
    source = (FIXTURES / "experiments/short_walk.py").read_text()
    source = source.replace("# walks =", '# mode = { default = "plain" }\n# walks =')
    parameter = read_manifest(source).parameters["mode"]
    assert parameter.refusal("plain") is None
    assert parameter.refusal("__import__('os')") == "must be one of plain"
