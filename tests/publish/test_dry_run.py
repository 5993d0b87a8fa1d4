"""The dry runs of `publish`: what is refused, and which recorded runs are accepted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from axiom_server.errors import DryRunFailed, FileUnreadable
from axiom_server.publish.dry_run import RecordedRun, dry_run_all, read_recorded_run
from axiom_server.review.log_text import dry_run_summary
from tests.support.programs import FIXTURES

WALK = FIXTURES / "experiments" / "short_walk.py"


def changed(folder: Path, *changes: tuple[str, str]) -> tuple[Path, bytes]:
    """The short walk with other text in places."""
    text = WALK.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    path = folder / "walk.py"
    path.write_text(text)
    return path, text.encode()


def tried(source: tuple[Path, bytes], *runs: RecordedRun, **options: Any) -> dict[str, Any]:
    """The one thing shown of one source."""
    said: list[str] = []
    wanted = {"skip": (), "budget_seconds": 0.5, "log": said.append, **options}
    shown = dry_run_all([source], runs, **wanted)
    assert said
    (found,) = shown.values()
    return found


def recorded(source: tuple[Path, bytes], **changes: Any) -> RecordedRun:
    """A run as the client prints it, made once for the file and then varied."""
    out = source[0].with_suffix(".json")
    if not out.exists():
        line = [str(Path(sys.executable).with_name("axiom-client")), "try", str(source[0])]
        with out.open("wb") as file:
            subprocess.run([*line, "--seed", "3", "--json"], stdout=file, check=True, timeout=200)
    return msgspec.structs.replace(read_recorded_run(out), **changes)


def test_a_sound_experiment_passes_and_its_figures_are_shown(tmp_path: Path) -> None:
    shown = tried(changed(tmp_path))
    assert shown["same_bytes"]
    assert (shown["runs"], shown["seed"], shown["skipped"]) == (2, 1, [])
    assert 0 < shown["cpu_seconds"] < 60
    assert 0 < shown["peak_memory_bytes"] <= shown["declared_memory_bytes"]
    assert shown["result"]["valid"] == 1
    words = dry_run_summary(shown)
    assert "2 runs of seed 1, the same bytes" in words
    assert "for a budget of 0.5 s" in words


def test_random_numbers_that_ignore_the_seed_are_refused(tmp_path: Path) -> None:
    source = changed(
        tmp_path, ("def run(task):", "import os\n\n\ndef run(task):"),
        ('"exponent": ', '"exponent": int.from_bytes(os.urandom(4)) * 1e-12 + '),
    )  # fmt: skip
    with pytest.raises(DryRunFailed, match="different bytes \\(exponent\\)"):
        tried(source)
    shown = tried(source, skip=("determinism",))
    assert (shown["runs"], shown["same_bytes"], shown["skipped"]) == (1, False, ["determinism"])
    assert "not checked: determinism" in dry_run_summary(shown)


def test_an_experiment_that_fails_is_refused_with_its_message(tmp_path: Path) -> None:
    source = changed(tmp_path, ("def run(task):", "def run(task):\n    raise ValueError('oh')"))
    with pytest.raises(DryRunFailed, match=r"ended as failed: .*ValueError: oh$"):
        tried(source)


def test_an_experiment_that_uses_more_memory_than_declared_is_refused(tmp_path: Path) -> None:
    source = changed(
        tmp_path, ("def run(task):", "def run(task):\n    held = bytearray(3_000_000_000)")
    )
    with pytest.raises(DryRunFailed, match="over_memory"):
        tried(source)


def test_recorded_runs_are_checked_by_the_same_rules(tmp_path: Path) -> None:
    source = changed(tmp_path)
    one = recorded(source)
    assert tried(source, one, one)["seed"] == 3
    with pytest.raises(DryRunFailed, match="2 recorded runs are needed"):
        tried(source, one)
    assert tried(source, one, skip=("determinism",))["runs"] == 1
    wrong = {
        "different bytes": recorded(source, result=msgspec.Raw(b'{"valid": 1}')),
        "different seeds": recorded(source, seed=4),
        "of a different source": recorded(source, sha256="0" * 64),
        "processor time": recorded(source, cpu_seconds=3600.0),
        "it took 3600 s": recorded(source, elapsed_seconds=3600.0),
        "MB and declares": recorded(source, peak_memory_bytes=1 << 40),
        "ended as lost": recorded(source, outcome="lost"),
    }
    for why, run in wrong.items():
        with pytest.raises(DryRunFailed, match=why):
            tried(source, one, run)
    slow = recorded(source, cpu_seconds=3600.0, elapsed_seconds=3600.0)
    assert tried(source, one, slow, skip=("time",))["cpu_seconds"] == 3600
    huge = recorded(source, peak_memory_bytes=1 << 40)
    assert tried(source, one, huge, skip=("memory",))["skipped"] == ["memory"]


def test_a_file_that_is_no_recorded_run_is_refused(tmp_path: Path) -> None:
    for text in ("", "[]", "{}", '{"outcome": "success"}', "\xff"):
        (tmp_path / "tried.json").write_text(text)
        with pytest.raises(FileUnreadable, match=r"axiom-client try --json"):
            read_recorded_run(tmp_path / "tried.json")
    with pytest.raises(FileUnreadable, match="cannot read"):
        read_recorded_run(tmp_path / "absent.json")


COHORT = """

def run_cohort(tasks):
    return [{} for task in tasks]
"""
OFFER = ("# [tool.axiom.result]", "# [tool.axiom_cohort]\n# most = 8\n# [tool.axiom.result]")


def with_cohort(folder: Path, each: str) -> tuple[Path, bytes]:
    path, source = changed(folder, OFFER)
    path.write_bytes(source + COHORT.replace("{}", each).encode())
    return path, path.read_bytes()


def test_a_cohort_that_agrees_with_single_runs_passes(tmp_path: Path) -> None:
    assert tried(with_cohort(tmp_path, "run(task)"))["result"]["valid"] == 1


@pytest.mark.parametrize(
    ("each", "words"),
    [
        ("run(tasks[0])", "run_cohort and run disagree on seed 2"),
        ("ValueError('not here')", "run_cohort ended as failed for seed 1"),
    ],
)
def test_a_cohort_that_differs_from_single_runs_is_refused(
    tmp_path: Path, each: str, words: str
) -> None:
    with pytest.raises(DryRunFailed, match=words):
        tried(with_cohort(tmp_path, each))


@pytest.mark.parametrize("send", [os.killpg, os.kill])
def test_an_interrupt_leaves_no_process_and_no_folder(
    tmp_path: Path, send: Callable[[int, int], None]
) -> None:
    """From a terminal, which sends it to all processes of the command's group, or to it alone."""
    path, _ = changed(tmp_path, ("def run(task):", "def run(task):\n    time.sleep(100)"))
    folder = tmp_path / "folders"
    folder.mkdir()
    code = (
        "import pathlib, signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from axiom_server.publish.dry_run import dry_run_all\n"
        f"path = pathlib.Path({str(path)!r})\n"
        "dry_run_all([(path, path.read_bytes())], [], skip=(), budget_seconds=0.5, log=print)\n"
    )
    environment = {**os.environ, "TMPDIR": str(folder)}
    with subprocess.Popen(
        [sys.executable, "-c", code], env=environment, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as command:  # fmt: skip
        until = time.monotonic() + 60
        while not list(folder.iterdir()) and time.monotonic() < until:
            time.sleep(0.05)
        time.sleep(0.5)
        children = psutil.Process(command.pid).children(recursive=True)
        assert children
        send(command.pid, signal.SIGINT)
        command.communicate(timeout=30)
    psutil.wait_procs(children, timeout=10)
    assert not [child for child in children if child.is_running()]
    assert not list(folder.iterdir())
