"""Cohorts: many seeds in one process, each reported apart."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, cast

import pytest
from msgspec import structs

from axiom_client.decide.task_run import Member, TaskFinished
from axiom_client.run import task_folder
from axiom_client.run.experiment import load_run
from axiom_client.run.spec import PlacedTask, TaskProgressed, TaskStarted
from axiom_client.run.task import CohortStop, Task
from tests.support.running import HEADER, Recorder, make_spec, with_pool

BODY = """
def result(task):
    return {"valid": 1, "configs_done": 1, "value": [float(task.seed)]}

def run(task):
    return result(task)

def run_cohort(tasks):
"""


def cohort_script(body: str) -> str:
    lines = "".join(f"    {line}\n" for line in body.strip().splitlines())
    return HEADER.format(dependencies='"numpy"') + BODY + lines


def cohort_spec(folder: Path, source: str, seeds: int, **changes: Any) -> PlacedTask:
    specs = [make_spec(folder, source, seed=10 + i) for i in range(seeds)]
    others = [Member(task_id=s.task_id, seed=s.seed, folder=s.folder) for s in specs[1:]]
    assert specs[0].sha256 == hashlib.sha256(source.encode()).hexdigest()
    return structs.replace(specs[0], others=others, **changes)


def run_all(spec: PlacedTask) -> tuple[list[TaskFinished], Recorder]:
    async def use(recorder: Recorder) -> tuple[list[TaskFinished], Recorder]:
        recorder.pool.start(spec)
        ends = [await recorder.wait(task_id, TaskFinished) for task_id in spec.task_ids]
        return ends, recorder

    ends: tuple[list[TaskFinished], Recorder] = with_pool(use)
    return ends


def test_each_member_has_its_own_result_start_and_share_of_the_time(tmp_path: Path) -> None:
    source = cohort_script("import time; time.sleep(0.4)\nreturn [result(t) for t in tasks]")
    spec = cohort_spec(tmp_path, source, 4)
    ends, recorder = run_all(spec)
    assert [end.outcome for end in ends] == ["success"] * 4
    assert [end.result["value"] for end in ends] == [[10.0], [11.0], [12.0], [13.0]]
    assert len({recorder.of(i, TaskStarted)[0].pid for i in spec.task_ids}) == 1
    assert all(0.1 <= end.elapsed_seconds < 0.3 for end in ends[1:])
    assert len({end.elapsed_seconds for end in ends}) == 1


def test_progress_is_each_members_own(tmp_path: Path) -> None:
    source = cohort_script("tasks[1].progress(0.25)\nreturn [result(t) for t in tasks]")
    spec = cohort_spec(tmp_path, source, 3)
    _, recorder = run_all(spec)
    found = [len(recorder.of(i, TaskProgressed)) for i in spec.task_ids]
    assert found == [0, 1, 0]


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ("ValueError('one seed diverged')", "one seed diverged"),
        ("{'valid': 1, 'configs_done': 1, 'value': [float('nan')]}", "not finite"),
        ("{'valid': 7, 'configs_done': 1, 'value': [0.0]}", "refused"),
        ("None", "refused"),
    ],
)
def test_one_that_fails_does_not_touch_another(tmp_path: Path, bad: str, words: str) -> None:
    source = cohort_script(f"found = [result(t) for t in tasks]\nfound[1] = {bad}\nreturn found")
    ends, _ = run_all(cohort_spec(tmp_path, source, 3))
    assert [end.outcome for end in ends] == ["success", "failed", "success"]
    assert words in ends[1].message
    assert not any(end.shared for end in ends)


@pytest.mark.parametrize(
    ("body", "outcome"),
    [
        ("raise RuntimeError('all')", "failed"),
        ("return [result(tasks[0])]", "failed"),
        ("x = bytearray(100 << 30)\nreturn []", "over_memory"),
        ("import os; os.abort()", "failed"),
        ("while True: pass", "timed_out"),
        ("open(tasks[2].folder / 'x', 'wb').write(bytes(50_000_000))\nreturn []", "over_disk"),
    ],
)
def test_what_ends_the_process_is_blamed_on_no_member(
    tmp_path: Path, body: str, outcome: str
) -> None:
    spec = cohort_spec(tmp_path, cohort_script(body), 3)
    limits = structs.replace(spec.limits, wall_seconds=3.0 if outcome == "timed_out" else 100.0)
    ends, _ = run_all(structs.replace(spec, limits=limits))
    assert [end.outcome for end in ends] == [outcome] * 3
    assert all(end.shared for end in ends)


def test_a_cohort_cannot_leave_its_members_folders(tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("of another")
    source = cohort_script(
        "for t in tasks:\n"
        "    (t.folder / 'own').write_text('mine')\n"
        f"try:\n    open({str(secret)!r})\n"
        "except OSError as error:\n    return [result(t) for t in tasks]\n"
        "raise RuntimeError('it was read')"
    )
    spec = cohort_spec(tmp_path, source, 3)
    ends, _ = run_all(spec)
    assert [end.outcome for end in ends] == ["success"] * 3, ends[0].message
    assert all((Path(folder) / "own").exists() for folder in spec.folders)


def test_a_stopped_cohort_ends_when_every_member_has_saved_its_state(tmp_path: Path) -> None:
    source = cohort_script(
        "import time\n"
        "for i in range(10**6):\n"
        "    time.sleep(0.01)\n"
        "    for t in tasks:\n"
        "        t.progress(0.5)\n"
        "        t.checkpoint({'i': i})\n"
        "return []"
    )
    spec = cohort_spec(tmp_path, source, 3)

    async def use(recorder: Recorder) -> list[TaskFinished]:
        recorder.pool.start(spec)
        await recorder.wait(spec.task_id, TaskProgressed)
        recorder.pool.stop(spec.task_id, grace_seconds=60)
        return [await recorder.wait(i, TaskFinished) for i in spec.task_ids]

    ends = with_pool(use)
    assert [end.outcome for end in ends] == ["cancelled"] * 3
    assert "checkpoint" in ends[0].message
    assert not any(end.shared for end in ends)
    assert all((Path(folder) / "checkpoint.npz").exists() for folder in spec.folders)


def test_progress_of_a_member_is_no_saved_state_where_another_saves() -> None:
    stop = CohortStop(2, lambda: True)
    first, second = stop.for_member(0), stop.for_member(1)
    assert not first(True)
    assert not second(False)
    assert second(True)


def test_a_cohort_that_saves_nothing_ends_after_progress_of_all() -> None:
    stop = CohortStop(2, lambda: True)
    assert not stop.for_member(0)(False)
    assert stop.for_member(1)(False)


def test_what_members_other_than_the_first_leave_on_disk_counts(tmp_path: Path) -> None:
    """Deleted files that stay mapped, in the folder of another member."""
    body = """
import mmap, time
held = []
for i in range(4):
    path = tasks[1].folder / "f"
    with open(path, "w+b") as file:
        file.write(bytes(8 << 20))
        held.append(mmap.mmap(file.fileno(), 4096))
    path.unlink()
time.sleep(60)
"""
    spec = cohort_spec(tmp_path, cohort_script(body), 2)
    ends, _ = run_all(spec)
    assert {end.outcome for end in ends} == {"over_disk"}, ends[0].message


def test_counting_of_files_ends_at_the_first_folder_with_too_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = []

    def measure(folder: str) -> task_folder.FolderUsage:
        measured.append(folder)
        return task_folder.FolderUsage(files=task_folder.FILES_MAX + 1)

    monkeypatch.setattr(task_folder, "measure", measure)
    ends, _ = run_all(cohort_spec(tmp_path, cohort_script("import time; time.sleep(60)"), 5))
    assert {end.outcome for end in ends} == {"over_disk"}
    assert len(set(measured)) == 1


@pytest.mark.parametrize(("device", "used"), [("cpu", "run"), ("cuda:0", "run_cohort")])
def test_a_single_task_on_a_gpu_runs_as_a_cohort_of_one(device: str, used: str) -> None:
    source = (
        "def run(task):\n    return 'run', task\n"
        "def run_cohort(tasks):\n    return [('run_cohort', task) for task in tasks]\n"
    )
    task = cast(Task, object())
    assert load_run(source, "walk", device)(task) == (used, task)


def test_an_exception_in_place_of_a_single_result_is_raised() -> None:
    source = (
        "def run(task):\n    return {}\n"
        "def run_cohort(tasks):\n    return [ValueError('no result')]\n"
    )
    with pytest.raises(ValueError, match="no result"):
        load_run(source, "walk", "cuda:0")(cast(Task, object()))
