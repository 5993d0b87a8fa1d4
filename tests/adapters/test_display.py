"""What a person sees fits the terminal, names every reason, and is plain where it should be."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from axiom_client.decide import events as e
from axiom_client.decide.model import Limits
from axiom_client.display import picture
from axiom_client.view import Snapshot, Who, snapshot
from tests.decide.client.world import World, facts, grant

WHO = Who(project="Axiom " * 10, url="https://x.example", host_id=296, user="Steve Dodd")


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
    console.print(picture(shot, width, height))
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
