"""A project and an agent for each test, as real processes, which are ended after the test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.support import programs
from tests.support.processes import still_running
from tests.support.programs import FIXTURES, Program, Server


@contextmanager
def served(folder: Path, *, installed: bool = False) -> Iterator[Server]:
    """A served project that has nothing published yet. ``installed``: as users start it."""
    made = programs.server(folder)
    made.installed = installed
    made.serve()
    yield made
    made.stop()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with served(tmp_path) as made:
        yield made


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Program]:
    """An agent that is not attached yet."""
    made = programs.agent(tmp_path)
    made.installed = True
    yield made
    if made.process is None or made.process.poll() is not None:
        return
    family = [psutil.Process(made.process.pid), *programs.descendants(made.process)]
    made.stop()
    alive = still_running(family, 30)
    for process in alive:
        process.kill()


@pytest.fixture
def held_walk(tmp_path: Path) -> Path:
    """The short walk, with a pause of six seconds."""
    source = (FIXTURES / "experiments" / "short_walk.py").read_text()
    held = tmp_path / "short_walk.py"
    held.write_text(
        source.replace("pause_seconds = { default = 0.0", "pause_seconds = { default = 6.0")
    )
    return held
