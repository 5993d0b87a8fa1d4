"""``axiom-client try-many``: the runs that ``axiom-server publish`` asks for, in real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import psutil

from axiom_client.errors import TrialFailed
from axiom_protocol.try_requests import TryRequest
from tests.support.programs import FIXTURES

WALK = FIXTURES / "experiments" / "short_walk.py"
COHORT_WALK = FIXTURES / "experiments" / "cohort_walk.py"
LINE = [str(Path(sys.executable).with_name("axiom-client")), "try-many"]
SECOND = "{'valid': 1, 'configs_done': 1, 'exponent': int(time.time()) % 1000 / 1000}"
RUNS_AT_A_TIME = min(2, os.cpu_count() or 1)


def wanted(path: Path, **fields: Any) -> TryRequest:
    return TryRequest(**{"path": str(path), "seed": 1, "budget_seconds": 0.5, **fields})


def try_many(text: bytes, folder: Path) -> subprocess.CompletedProcess[bytes]:
    """Run the command; its temporary folders are in ``folder``."""
    environment = {**os.environ, "TMPDIR": str(folder)}
    return subprocess.run(LINE, input=text, capture_output=True, timeout=120, env=environment)


def records(*requests: TryRequest, folder: Path) -> dict[int, dict[str, Any]]:
    done = try_many(msgspec.json.encode(requests), folder)
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    return {answer["number"]: answer["run"] for answer in answers}


def variant(folder: Path, first_line: str) -> Path:
    path = folder / "walk.py"
    path.write_text(WALK.read_text().replace("def run(task):", f"def run(task):\n    {first_line}"))
    return path


def test_every_run_is_told_apart_and_they_agree(tmp_path: Path) -> None:
    made = records(
        wanted(WALK, fresh=True),
        wanted(WALK),
        wanted(WALK, seed=2),
        wanted(COHORT_WALK, other_seeds=(5, 6)),
        folder=tmp_path,
    )
    assert [made[number]["seed"] for number in range(4)] == [1, 1, 2, 1]
    assert made[0]["result"] == made[1]["result"] != made[2]["result"]
    assert [member["seed"] for member in made[3]["cohort"]] == [5, 6]
    assert all(run["outcome"] == "success" for run in made.values()), made
    assert not list(tmp_path.iterdir())


def test_a_run_that_fails_leaves_the_others_alone(tmp_path: Path) -> None:
    broken = variant(tmp_path, "assert task.seed != 2, 'two'")
    made = records(wanted(broken), wanted(broken, seed=2), wanted(broken, seed=3), folder=tmp_path)
    assert [made[number]["outcome"] for number in range(3)] == ["success", "failed", "success"]
    assert "AssertionError: two" in made[1]["message"]


def test_a_repeated_run_meets_another_second(tmp_path: Path) -> None:
    clock = variant(tmp_path, f"return {SECOND}")
    made = records(wanted(clock), wanted(clock, after=0), folder=tmp_path)
    assert made[0]["outcome"] == made[1]["outcome"] == "success"
    assert made[0]["result"] != made[1]["result"]


def test_what_cannot_be_run_is_said_and_the_rest_is_ended(tmp_path: Path) -> None:
    slow = variant(tmp_path, "time.sleep(100)")
    absent = wanted(tmp_path / "absent.py")
    folder = tmp_path / "folders"
    folder.mkdir()
    began = time.monotonic()
    done = try_many(msgspec.json.encode([wanted(slow), absent]), folder)
    assert done.returncode == TrialFailed.exit_code
    assert b"absent.py" in done.stderr
    assert time.monotonic() - began < 60
    assert not list(folder.iterdir())


def test_input_that_is_no_list_of_runs_is_refused(tmp_path: Path) -> None:
    for text in (b"", b"{}", b'[{"path": "x.py"}]', b"\xff"):
        done = try_many(text, tmp_path)
        assert (done.returncode, done.stdout) == (TrialFailed.exit_code, b""), text
        assert b"standard input is not a list of runs" in done.stderr
        assert b"Traceback" not in done.stderr


def test_an_interrupt_leaves_no_process_and_no_folder(tmp_path: Path) -> None:
    slow = variant(tmp_path, "time.sleep(100)")
    folder = tmp_path / "folders"
    folder.mkdir()
    requests = [wanted(slow), wanted(slow, fresh=True)]
    ignored = signal.signal(signal.SIGINT, signal.default_int_handler)  # as in a job of a shell
    with subprocess.Popen(
        LINE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(folder)},
    ) as process:  # fmt: skip
        signal.signal(signal.SIGINT, ignored)
        assert process.stdin is not None
        process.stdin.write(msgspec.json.encode(requests))
        process.stdin.close()
        until = time.monotonic() + 60
        while len(list(folder.iterdir())) < RUNS_AT_A_TIME and time.monotonic() < until:
            time.sleep(0.05)
        time.sleep(0.5)
        children = psutil.Process(process.pid).children(recursive=True)
        assert children
        process.send_signal(signal.SIGINT)
        process.wait(timeout=30)
    psutil.wait_procs(children, timeout=10)
    assert not [child for child in children if child.is_running()]
    assert not list(folder.iterdir())
