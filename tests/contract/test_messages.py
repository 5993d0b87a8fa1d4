"""The wire format is compared with one golden file for each message and protocol version.

A golden file is never changed after a release, because clients of that version exist. When a
message gets a new field, add a new golden file. When this test fails, the change breaks older
clients.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from axiom_protocol import messages

GOLDEN = sorted(Path(__file__).parent.glob("v*/*.json"))
OF_FILE: dict[str, type] = {
    "project_info": messages.ProjectInfo,
    "enrol_request": messages.EnrolRequest,
    "enrol_answer": messages.EnrolAnswer,
    "sync_request": messages.SyncRequest,
    "sync_answer": messages.SyncAnswer,
    "problem": messages.Problem,
    "account_link": messages.AccountLink,
    "sync_request_status": messages.SyncRequest,
    "sync_answer_account": messages.SyncAnswer,
}


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_golden_message_reads_and_writes_as_it_always_did(path: Path) -> None:
    text = path.read_bytes()
    message = msgspec.json.decode(text, type=OF_FILE[path.stem])
    written = json.loads(msgspec.json.encode(message))
    assert_contains(written, json.loads(text))


def assert_contains(written: Any, golden: Any) -> None:
    """Assert that ``written`` contains everything in the golden file; it may have newer fields."""
    if isinstance(golden, dict):
        for key, value in golden.items():
            assert_contains(written[key], value)
    elif isinstance(golden, list):
        assert len(written) == len(golden)
        for one, other in zip(written, golden, strict=True):
            assert_contains(one, other)
    else:
        assert written == golden


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_newer_peers_fields_are_tolerated(path: Path) -> None:
    newer = {**json.loads(path.read_bytes()), "field_of_next_year": {"a": [1]}}
    msgspec.json.decode(json.dumps(newer), type=OF_FILE[path.stem])


def test_a_newer_host_is_not_refused_for_what_this_version_does_not_know() -> None:
    text = (Path(__file__).parent / "newer" / "sync_request.json").read_bytes()
    host = msgspec.json.decode(text, type=messages.SyncRequest).host
    assert host is not None
    assert [gpu.backend for gpu in host.gpus] == ["other"]
    assert host.environments == ["numpy", "jax"]


def test_every_message_of_the_present_version_has_a_golden_file() -> None:
    present = {p.stem for p in GOLDEN if p.parent.name == f"v{messages.PROTOCOL_VERSION}"}
    assert present == set(OF_FILE)


REPORT = {"task_id": 1, "outcome": "success", "elapsed_seconds": 1, "cpu_seconds": 1}


@pytest.mark.parametrize(
    ("message", "broken"),
    [
        (messages.Report, {**REPORT, "outcome": "sulked"}),
        (messages.Report, {**REPORT, "elapsed_seconds": -1}),
        (messages.SyncRequest, {"request_id": "short", "capacity": {}}),
        (messages.SyncRequest, {"request_id": "long enough", "capacity": {"cpu_slots_free": 1e9}}),
        (messages.Grant, {"task_id": 1, "experiment": "a", "version": "1", "sha256": "../../etc"}),
        (messages.HostFacts, {"name": "h", "os": "o", "architecture": "a", "cpu_cores": 0}),
    ],
)
def test_impossible_values_are_refused_when_decoded(message: type, broken: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(json.dumps(broken), type=message)
