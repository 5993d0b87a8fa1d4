"""Levels of the agent's lines in systemd's journal."""

from __future__ import annotations

import logging
import os
import socket

import pytest

from axiom_client.service.journald import JournalFormatter, is_journal


@pytest.mark.parametrize(
    ("level", "expected"),
    [(logging.INFO, "<6>"), (logging.WARNING, "<4>"), (logging.ERROR, "<3>"),
     (logging.CRITICAL, "<2>"), (logging.DEBUG, "<7>")],
)  # fmt: skip
def test_each_line_has_its_level(level: int, expected: str) -> None:
    record = logging.LogRecord("axiom_client", level, __file__, 1, "first %d\nsecond", (1,), None)
    assert JournalFormatter().format(record) == f"{expected}first 1\n{expected}second"


def test_the_journal_is_told_from_redirected_output() -> None:
    journal, manager = socket.socketpair()
    with journal, manager:
        status = os.fstat(journal.fileno())
        environment = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        assert is_journal(journal.fileno(), environment)
        assert not is_journal(manager.fileno(), environment)
        assert not is_journal(journal.fileno(), {})
