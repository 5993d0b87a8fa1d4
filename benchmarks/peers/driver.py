"""What a system must offer to be compared, and the program that drives one.

Each system is driven by a process of its own, so that all that belongs to it is below that process:

    python -m benchmarks.peers.driver NAME FOLDER SLOTS

reads commands as lines of JSON from its standard input, and answers each with a line.
"""

from __future__ import annotations

import ctypes
import importlib
import sys
import time
from pathlib import Path
from typing import ClassVar

import msgspec
import psutil

from benchmarks.peers.tasks import Span

PR_SET_CHILD_SUBREAPER = 36
NAMES = ("axiom", "boinc", "dask", "ray", "futures", "subprocesses", "condor")


class Outcome(msgspec.Struct, kw_only=True):
    """What came of some tasks.

    spans      when each ran, in order of the beginning
    received   when the submitter had each result: monotonic seconds, ascending
    credited   when all results were credited; None for a system without credit
    """

    spans: list[Span]
    received: list[float]
    credited: float | None = None


class Driver:
    """One system on this machine, with a folder of its own and a number of slots.

    ``name`` and ``isolation`` are printed, ``install`` says how to get it.
    """

    name: ClassVar[str]
    isolation: ClassVar[str]
    install: ClassVar[str]

    def __init__(self, folder: Path, slots: int) -> None:
        self.folder = folder
        self.slots = slots

    @classmethod
    def version(cls) -> str:
        """The installed version; "" when it is not installed."""
        raise NotImplementedError

    def start_server(self) -> None:
        """Start what is not the host's part."""

    def start_host(self) -> None:
        """Start the host's part, as a new host. No work is waiting."""

    def stop_host(self) -> None:
        """Stop the host's part."""

    def run(self, work: str, count: int) -> Outcome:
        """Submit tasks, and wait for all results. Starts the host's part if it does not run."""
        raise NotImplementedError

    def close(self) -> None:
        """Stop everything."""


class Command(msgspec.Struct, kw_only=True):
    """A command to a driver. ``fresh``: with a host's part that is started anew."""

    do: str
    work: str = ""
    count: int = 0
    fresh: bool = False


class Reply(msgspec.Struct, kw_only=True):
    """The answer to a command.

    server_pids   the processes that are not the host's part, without their descendants
    started       when the host's part was started for the tasks
    """

    server_pids: list[int] = []
    started: float = 0.0
    outcome: Outcome | None = None


def find(name: str) -> type[Driver]:
    """The driver of a system, by the name of its module."""
    module = importlib.import_module(f"benchmarks.peers.{name}")
    found: type[Driver] = module.DRIVER
    return found


def perform(driver: Driver, command: Command) -> Reply:
    """Carry out one command."""
    if command.do == "start_server":
        driver.start_server()
        children = psutil.Process().children()
        return Reply(server_pids=[child.pid for child in children])
    if command.do == "start_host":
        driver.start_host()
        return Reply()
    if command.do == "stop_host":
        driver.stop_host()
        return Reply()
    if command.fresh:
        driver.stop_host()
    started = time.monotonic()
    return Reply(started=started, outcome=driver.run(command.work, command.count))


def main(name: str, folder: Path, slots: int) -> None:
    """Obey until the standard input ends."""
    # Daemons that a system starts stay below this process, to be measured and ended.
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    replies, sys.stdout = sys.stdout, sys.stderr
    driver = find(name)(folder, slots)
    try:
        for line in sys.stdin:
            reply = perform(driver, msgspec.json.decode(line, type=Command))
            replies.write(msgspec.json.encode(reply).decode() + "\n")
            replies.flush()
    finally:
        driver.close()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
