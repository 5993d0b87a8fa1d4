"""The display fits the terminal, names every reason, and uses colour only where it is wanted."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from axiom_client.cli.display import render
from axiom_client.control.snapshot import Membership, Snapshot, snapshot
from axiom_client.decide import events as e
from axiom_client.decide.model import Limits
from axiom_protocol.manifest import Resources
from tests.support.world import World, facts, grant

WHO = Membership(project="Axiom " * 10, url="https://x.example", host_id=296, user="Steve Dodd")


def busy(cores: int, tasks: int, gpus: int = 0, **limits: float) -> Snapshot:
    """A host with work, each task half done."""
    world = World(facts(cores=cores, gpus=gpus), limits=Limits(**limits))  # type: ignore[arg-type]
    long = "feature_learning_phase_of_everything"
    world.answer(*[grant(i, experiment=long) for i in range(1, tasks + 1)])
    world.fetched(name=long)
    for task_id in list(world.state.tasks):
        world.do(e.TaskProgressed(now=world.now, task_id=task_id, fraction=0.5))
    world.hear_nothing()
    return snapshot(world.state, WHO, world.now + 30)


def drawn(shot: Snapshot, width: int, height: int, *, colour: bool = False) -> str:
    """The picture as text."""
    console = Console(
        file=io.StringIO(), width=width, height=height, force_terminal=colour, highlight=False,
        color_system="standard" if colour else None,
    )  # fmt: skip
    console.print(render(shot, width, height))
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


@pytest.mark.parametrize(("width", "height"), [(80, 24), (200, 50), (60, 10)])
@pytest.mark.parametrize(("cores", "tasks", "gpus"), [(2, 5, 0), (240, 480, 2), (16, 3, 0)])
def test_fits_the_terminal(width: int, height: int, cores: int, tasks: int, gpus: int) -> None:
    lines = drawn(busy(cores, tasks, gpus), width, height).splitlines()
    assert len(lines) <= height
    assert max(map(len, lines)) <= width


def test_shows_tasks_progress_and_what_is_left_out() -> None:
    text = drawn(busy(240, 480), 80, 24)
    assert "feature_learning" in text
    assert "50%" in text
    assert "… and 225 more" in text
    assert "240 running, 240 waiting" in text


def test_a_wide_terminal_shows_tasks_side_by_side_and_keeps_the_reasons() -> None:
    text = drawn(busy(240, 480, gpus=2), 200, 50)
    assert re.search(r"^core 0 .*#1 .*core 40 .*#41 ", text, re.MULTILINE)
    assert "GPUs 0-1 free: the server has no work for this GPU" in text
    assert "… and 160 more" in text
    assert "240 waiting (enough for 60 s)" in drawn(busy(240, 480), 80, 24)


def test_a_task_of_several_cores_has_one_row_that_names_them() -> None:
    world = World(facts(cores=8))
    world.answer(grant(1), grant(2))
    world.fetched(resources=Resources(cpu_cores=3, memory_bytes=100_000_000, disk_bytes=0))
    world.hear_nothing()
    shot = snapshot(world.state, WHO, world.now)
    assert [slot.task_id for slot in shot.slots] == [1, 1, 1, 2, 2, 2, None, None]
    text = drawn(shot, 80, 24)
    assert re.search(r"^cores 0-2 +walk +#1 ", text, re.MULTILINE)
    assert re.search(r"^cores 3-5 +walk +#2 ", text, re.MULTILINE)
    assert re.search(r"^cores 6-7 +free: ", text, re.MULTILINE)


def test_a_long_problem_takes_a_second_line_and_nothing_is_said_twice() -> None:
    world = World()
    problem = "nothing answers at https://axiom.example.org:8443; check the address, or try later"
    world.do(e.SyncFailed(now=world.now, problem=problem, again=True, jitter=0.5))
    world.do(e.PauseRequested(now=world.now, for_seconds=None, reason="paused by you"))
    lines = drawn(snapshot(world.state, WHO, world.now), 80, 24).splitlines()
    assert lines[-2:] == ["  or try later", "paused by you"]
    assert lines[-3].startswith("problem: nothing answers")


def test_alike_idle_cores_share_a_line_with_their_reason() -> None:
    text = drawn(busy(16, 3, cpu_share=0.5), 80, 24)
    assert re.search(r"cores 8-15 +kept free: cpu\.share is 50%", text)
    assert re.search(r"cores 3-7 +free: the server has no work for this host", text)


def test_colour_only_where_it_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    shot = busy(2, 2)
    assert "\x1b[" not in drawn(shot, 80, 24)
    assert "\x1b[1;32m" in drawn(shot, 80, 24, colour=True)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "[1;32m" not in drawn(shot, 80, 24, colour=True)


def test_why_a_gpu_cannot_be_used_is_shown() -> None:
    world = World()
    why = "torch is installed without CUDA"
    world.do(e.FactsProbed(now=world.now, facts=facts(), gpu_problems=[why]))
    assert f"no GPU: {why}" in drawn(snapshot(world.state, WHO, world.now), 100, 30)
