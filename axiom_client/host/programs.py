"""Whether a program that wants the computer for itself runs."""

from __future__ import annotations

from collections.abc import Sequence

import psutil


def running_program(names: Sequence[str]) -> str:
    """The first of these programs that runs, as the volunteer wrote it; empty when none does.

    Names are compared without case and without ".exe". The agent's own processes do not count.
    """
    wanted = {_plain(name): name for name in names}
    own = psutil.Process()
    family = {own.pid, *(child.pid for child in own.children(recursive=True))}
    running = {_plain(p.info["name"] or "") for p in psutil.process_iter(["name"])
               if p.pid not in family}  # fmt: skip
    return next((written for plain, written in wanted.items() if plain in running), "")


def _plain(name: str) -> str:
    return name.strip().lower().removesuffix(".exe")
