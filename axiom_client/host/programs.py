"""Whether a program runs during which the agent must pause (``run.exclusive``)."""

from __future__ import annotations

from collections.abc import Sequence

import psutil


def running_program(names: Sequence[str]) -> str:
    """The first of these programs that runs, as written by the volunteer; empty if none runs.

    Names are compared without case and without ".exe". The agent's own processes are ignored.
    """
    wanted = {_plain(name): name for name in names}
    own = psutil.Process()
    own_processes = {own.pid, *(child.pid for child in own.children(recursive=True))}
    running = {_plain(p.info["name"] or "") for p in psutil.process_iter(["name"])
               if p.pid not in own_processes}  # fmt: skip
    return next((written for plain, written in wanted.items() if plain in running), "")


def _plain(name: str) -> str:
    return name.strip().lower().removesuffix(".exe")
