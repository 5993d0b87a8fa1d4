"""The fuzz targets: each takes any bytes, and may raise only the documented refusals.

Each also checks the guarantees for inputs that pass. An AssertionError, or any other exception, is
a finding; its input is kept in ``corpus`` and replayed by the tests from then on.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from axiom_client.decide import commands as c
from axiom_client.decide import events as e
from axiom_client.decide.agent import step
from axiom_client.decide.binding import GrantRefused, bind
from axiom_protocol.agreement import disagreements
from axiom_protocol.manifest import ManifestError, Scalar, read_manifest
from axiom_protocol.messages import REPORTS_MAX, Grant, Problem, SyncAnswer, SyncRequest
from axiom_protocol.result import ResultRefused, decode_result, gate
from axiom_server.web.api import Refused, decode
from tests.support.world import SHA, World, manifest

CORPUS = Path(__file__).parent / "corpus"
MESSAGE_CHARACTERS_MAX = 20_000  # of a refusal: it goes to logs and over the wire

#: A manifest with every kind of field and of parameter.
MANIFEST_TEXT = """
# /// script
# dependencies = ["numpy"]
# [tool.axiom]
# name = "fuzzed"
# version = "1.0.0"
# title = "Fuzzed"
# question = "?"
# expected_seconds = 1
# [tool.axiom.parameters]
# count = { default = 4, min = 1, max = 9 }
# rate = { default = 0.5, min = 0.0, max = 1.0 }
# free = { default = 1.5 }
# name = { default = "a", choices = ["a", "b"] }
# text = { default = "a" }
# on = { default = true }
# many = { default = [1, 2], min = 0, max = 9, max_items = 3 }
# [tool.axiom.result]
# valid = { kind = "flag" }
# configs_done = { kind = "integer", min = 0, max = 9 }
# loss = { min = 0.0, max = 1e6, rtol = 1e-8 }
# curve = { dims = 1, max_items = 4 }
# table = { dims = 3, max_items = 3 }
# noise = { chaotic = true }
# [tool.axiom.result.runs]
# kind = "records"
# max_items = 3
# fields.lr = { min = 0.0 }
# fields.losses = { dims = 1 }
# fields.inner = { kind = "records", fields = { x = { kind = "integer" } } }
# ///
"""
MANIFEST = read_manifest(MANIFEST_TEXT)
ASKING = World()  # an agent that waits for its server's first answer

_sync = msgspec.json.Decoder(SyncRequest).decode
_answer = msgspec.json.Decoder(SyncAnswer).decode
_grant = msgspec.json.Decoder(Grant).decode


def check_sync(data: bytes) -> None:
    """The server's decoder of ``POST /api/v1/sync``: a SyncRequest, or Refused with status 400."""
    try:
        asked = decode(_sync, data)
    except Refused as refused:
        _check_problem(refused.problem)
        return
    assert len(asked.reports) <= REPORTS_MAX
    for report in asked.reports:
        assert math.isfinite(report.elapsed_seconds)
        assert math.isfinite(report.cpu_seconds)
        _check_gate(report.result)
    raw = msgspec.json.encode(asked)
    assert decode(_sync, raw) == asked or b"result" in raw  # big numbers of a result lose digits


def check_manifest(data: bytes) -> None:
    """The manifest reader: a Manifest whose own defaults are in range, or ManifestError."""
    try:
        manifest = read_manifest(data.decode(errors="replace"))
    except ManifestError as error:
        _check_message(error)
        return
    name, _, version = manifest.ref.partition("@")
    assert name.isascii()
    assert name.isidentifier()
    assert version.replace(".", "").isdecimal()
    assert version.isascii()
    chosen = manifest.resolve({})
    assert manifest.resolve(chosen) == chosen
    for parameter in chosen.values():
        assert isinstance(parameter, Scalar | list)
    assert manifest.environment in ("numpy", "torch")
    msgspec.json.encode(manifest)


def check_gate(data: bytes) -> None:
    """The result gate: finite native numbers in the declared shape, or ResultRefused."""
    try:
        value = decode_result(data)
    except ResultRefused as refused:
        _check_message(refused)
        return
    _check_gate(value)


def check_grant(data: bytes) -> None:
    """The agent's binding of a grant: parameters inside the signed ranges, or GrantRefused."""
    try:
        grant = _grant(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return
    try:
        chosen = bind(grant, MANIFEST)
    except GrantRefused as refused:
        _check_message(refused)
        return
    assert chosen.keys() == MANIFEST.parameters.keys()
    assert 1 <= chosen["count"] <= 9
    assert 0 <= chosen["rate"] <= 1
    assert math.isfinite(chosen["free"])
    assert chosen["name"] in ("a", "b")
    assert chosen["text"] == "a"  # no choices: what staff signed
    assert chosen["on"] in (True, False)
    assert all(0 <= item <= 9 for item in chosen["many"])
    assert 1 <= len(chosen["many"]) <= 3


def check_answer(data: bytes) -> None:
    """The agent after any answer of its server: it continues."""
    try:
        answer = _answer(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return
    state, _ = step(ASKING.state, e.SyncAnswered(now=ASKING.now, answer=answer))
    fetched = e.BundleFetched(now=ASKING.now, sha256=SHA, path="/bundle.py", manifest=manifest())
    state, commands = step(state, fetched)
    for command in commands:
        if isinstance(command, c.StartTask):
            assert command.spec.source_path == "/bundle.py"
            assert command.spec.parameters.keys() == manifest().parameters.keys()
    step(state, e.TimerFired(now=ASKING.now + 86_400))


def _check_message(refused: Exception) -> None:
    assert 0 < len(str(refused)) < MESSAGE_CHARACTERS_MAX


def _check_problem(problem: Problem) -> None:
    assert problem.status == 400
    msgspec.json.encode(problem)


def _check_gate(value: object) -> None:
    try:
        result = gate(MANIFEST, value)
    except ResultRefused as refused:
        _check_message(refused)
        return
    _check_numbers(result)
    assert gate(MANIFEST, result) == result
    assert disagreements(MANIFEST, result, result) == []
    assert msgspec.json.decode(msgspec.json.encode(result)) == result


def _check_numbers(value: Any) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            assert isinstance(key, str)
            _check_numbers(item)
    elif isinstance(value, list):
        for item in value:
            _check_numbers(item)
    else:
        assert type(value) in (int, float)
        assert math.isfinite(value)


TARGETS: dict[str, Callable[[bytes], None]] = {
    "sync": check_sync,
    "manifest": check_manifest,
    "gate": check_gate,
    "grant": check_grant,
    "answer": check_answer,
}
