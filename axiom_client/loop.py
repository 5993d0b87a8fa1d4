"""The agent's one loop: one queue of events, signals, and nothing that polls.

event -> step (pure) -> journal -> effects -> events
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import msgspec
from msgspec import Struct

from axiom_client.config import Config, load_config
from axiom_client.control import ControlServer
from axiom_client.decide import events as e
from axiom_client.decide.agent import step
from axiom_client.decide.model import AgentState, Limits
from axiom_client.errors import ConfigProblem, DiskFull, HostRefused
from axiom_client.folders import Folders
from axiom_client.journal import Held, Journal
from axiom_client.lock import Lock
from axiom_client.perform import Performer, Setup
from axiom_client.project.api import Network
from axiom_client.project.identity import Identity
from axiom_client.service.notify import Notifier
from axiom_client.view import Snapshot, Who, snapshot

DISK_RETRY_SECONDS = 5.0  # between attempts to write while the disk is full
CLOSE_SECONDS = 2.0  # for what still runs when the agent goes without waiting

log = logging.getLogger("axiom_client")


class RunOptions(Struct, frozen=True, kw_only=True):
    """How this run differs from a service's."""

    until_idle: bool = False
    seconds: float | None = None
    record_events: Path | None = None


class Agent:
    """One running agent. ``state`` is replaced, never changed, so readers need no lock."""

    def __init__(
        self, folders: Folders, config: Config, identity: Identity, options: RunOptions
    ) -> None:
        self._folders = folders
        self._config = config
        self._identity = identity
        self._options = options
        self._queue: asyncio.Queue[e.Event] = asyncio.Queue()
        self._stop_asked = asyncio.Event()
        self._manager = Notifier()
        self._record: BinaryIO | None = None
        self.state = AgentState()
        self.held_up = ""  # why nothing moves, while the disk is full

    async def run(self) -> str:
        """Run until there is a reason to end; returns it. Raises AxiomError."""
        self._folders.make()
        lock = Lock(self._folders.lock_file)
        try:
            journal = Journal(self._folders.journal_file)
            try:
                return await self._run(journal)
            finally:
                journal.close()
        finally:
            lock.release()

    def put(self, event: e.Event) -> None:
        """Hand in an event."""
        self._queue.put_nowait(event)

    def snapshot(self) -> Snapshot:
        """What a person or a program may see of the agent now."""
        who = Who(
            project=self._identity.project,
            url=self._identity.url,
            host_id=self._identity.host_id,
            user=self._identity.user,
        )
        return snapshot(self.state, who, time.monotonic(), held_up=self.held_up)

    def ask_stop(self, reason: str) -> None:
        """End politely; asked again, at once."""
        hurry = self._stop_asked.is_set()
        self._stop_asked.set()
        self._manager.stopping(reason)
        self.put(e.StopRequested(now=time.monotonic(), reason=reason, hurry=hurry))

    def reload(self) -> str:
        """Take up a changed configuration; returns what is wrong with it: then the old stays."""
        self._manager.reloading()
        try:
            self._config = load_config(self._folders.config_file)
        except ConfigProblem as problem:
            log.error("the changed configuration is refused, the old one stays: %s", problem)
            self._manager.ready(f"the changed configuration is refused: {problem}")
            return str(problem)
        self._manager.ready()
        self.put(e.ConfigChanged(now=time.monotonic(), limits=self._config.limits()))
        return ""

    # --- the loop ---------------------------------------------------------------------------------

    async def _run(self, journal: Journal) -> str:
        held = journal.held()
        setup = Setup(
            folders=self._folders,
            identity=self._identity,
            network=Network(
                proxy=self._config["network.proxy"], ca_bundle=self._config["network.ca_bundle"]
            ),
            host_name=self._config["host.name"] or self._identity.host_name,
        )
        performer = Performer(setup, journal, self.put)
        control = ControlServer(self._folders.control_socket, self)
        alive = asyncio.create_task(self._manager.keep_alive(self._in_one_line))
        try:
            performer.sweep({record.grant.task_id for record in held.tasks})
            await control.start()
            self._handle_signals()
            self._open_record()
            self.put(_started(held, self._config.limits(), self._options))
            self._manager.ready()
            while performer.exit is None:
                await self._turn(performer, await self._queue.get())
                if performer.fault is not None:
                    raise performer.fault
        finally:
            alive.cancel()
            await control.close()
            await performer.close(CLOSE_SECONDS)
            if self._record is not None:
                self._record.close()
        if performer.exit.refused:
            raise HostRefused(
                f"{performer.exit.reason}; attach again: axiom-client detach, then attach"
            )
        return performer.exit.reason

    async def _turn(self, performer: Performer, event: e.Event) -> None:
        if self._record is not None:
            self._record.write(msgspec.json.encode(event) + b"\n")
        state, commands = step(self.state, event)
        while True:
            try:
                performer.persist(commands)
                break
            except DiskFull as full:
                await self._wait_for_room(full)
        self.held_up = ""
        self.state = state
        performer.perform(commands)

    async def _wait_for_room(self, full: DiskFull) -> None:
        """Hold everything until the disk can be written: what ends meanwhile waits in the queue."""
        if not self.held_up:
            log.error("%s", full)
        self.held_up = str(full)
        try:
            await asyncio.wait_for(self._stop_asked.wait(), DISK_RETRY_SECONDS)
        except TimeoutError:
            return
        raise full

    def _handle_signals(self) -> None:
        if sys.platform == "win32":
            return
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled(f"asked to by {number.name}"))
        loop.add_signal_handler(signal.SIGHUP, self.reload)

    def _signalled(self, reason: str) -> Callable[[], None]:
        return lambda: self.ask_stop(reason)

    def _in_one_line(self) -> str:
        shot = self.snapshot()
        return f"{shot.state}: {shot.tasks_running} tasks running, {shot.tasks_waiting} waiting"

    def _open_record(self) -> None:
        if self._options.record_events is not None:
            self._record = self._options.record_events.open("wb")


def _started(held: Held, limits: Limits, options: RunOptions) -> e.AgentStarted:
    return e.AgentStarted(
        now=time.monotonic(),
        wall=time.time(),
        instance=secrets.token_hex(8),
        limits=limits,
        tasks=held.tasks,
        reports=held.reports,
        unanswered=held.unanswered,
        pause=held.pause,
        drain=held.drain,
        durations=held.durations,
        credit=held.credit,
        until_idle=options.until_idle,
        seconds=options.seconds,
    )
