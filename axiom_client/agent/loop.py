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
from typing import BinaryIO

import msgspec

from axiom_client.agent.journal import Held, Journal
from axiom_client.agent.lock import Lock
from axiom_client.agent.perform import Performer, Setup
from axiom_client.agent.run_options import RunOptions
from axiom_client.config.schema import Config, load_config, read_flags
from axiom_client.control.server import ControlServer
from axiom_client.control.snapshot import Membership, Snapshot, snapshot
from axiom_client.decide import commands as c
from axiom_client.decide import events as e
from axiom_client.decide.agent import step
from axiom_client.decide.model import AgentState, Limits
from axiom_client.errors import ConfigProblem, DiskFull, HostRefused, ServerNotThere
from axiom_client.folders import Folders
from axiom_client.host.clock import utc_offset_seconds
from axiom_client.host.file_watch import FileWatch
from axiom_client.project.api import Network
from axiom_client.project.identity import Identity
from axiom_client.service.notify import Notifier

DISK_RETRY_SECONDS = 5.0  # between attempts to write while the disk is full
CLOCK_SLACK_SECONDS = 1.0  # a clock that is disciplined drifts by less between two events
CLOSE_SECONDS = 2.0  # for what still runs when the agent goes without waiting

log = logging.getLogger("axiom_client")


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
        self._performer: Performer | None = None
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
        who = Membership(
            project=self._identity.project,
            url=self._identity.url,
            host_id=self._identity.host_id,
            user=self._identity.user,
        )
        traffic = self._performer.traffic if self._performer else None
        return snapshot(self.state, who, time.monotonic(), held_up=self.held_up, traffic=traffic)

    def ask_stop(self, reason: str) -> None:
        """End politely; asked again, at once."""
        hurry = self._stop_asked.is_set()
        self._stop_asked.set()
        self._manager.stopping(reason)
        self.put(e.StopRequested(now=time.monotonic(), reason=reason, hurry=hurry))

    def reload(self) -> str:
        """Take up a changed configuration; returns what is wrong with it: then the old stays."""
        self._manager.reloading()
        before = _network(self._config)
        try:
            self._config = load_config(
                self._folders.config_file, flags=read_flags(self._options.flags)
            )
        except ConfigProblem as problem:
            log.error("the changed configuration is refused, the old one stays: %s", problem)
            self._manager.ready(f"the changed configuration is refused: {problem}")
            return str(problem)
        self._manager.ready()
        if self._performer is not None and before != _network(self._config):
            self._performer.use_network(_network(self._config))
        log.info("the configuration is taken up")
        self.put(e.ConfigChanged(now=time.monotonic(), limits=self._config.limits()))
        return ""

    # --- the loop ---------------------------------------------------------------------------------

    async def _run(self, journal: Journal) -> str:
        held = journal.held()
        setup = Setup(
            folders=self._folders,
            identity=self._identity,
            network=_network(self._config),
            host_name=self._config["host.name"] or self._identity.host_name,
        )
        performer = self._performer = Performer(setup, journal, self.put)
        watch = FileWatch(self._folders.config_file)
        control = ControlServer(self._folders.control_socket, self)
        alive = asyncio.create_task(self._manager.keep_alive(self._in_one_line))
        try:
            performer.sweep({record.grant.task_id for record in held.tasks})
            await control.start()
            self._handle_signals()
            self._open_record()
            if watch.descriptor >= 0:
                asyncio.get_running_loop().add_reader(watch.descriptor, self._look_at_file, watch)
            self.put(_started(held, self._config.limits(), self._options))
            self._manager.ready()
            while performer.exit is None:
                await self._turn(performer, await self._queue.get())
                if performer.fault is not None:
                    raise performer.fault
        finally:
            alive.cancel()
            if watch.descriptor >= 0:
                asyncio.get_running_loop().remove_reader(watch.descriptor)
            watch.close()
            await control.close()
            await performer.close(CLOSE_SECONDS)
            if self._record is not None:
                self._record.close()
        return _ended(performer.exit)

    async def _turn(self, performer: Performer, event: e.Event) -> None:
        if (changed := self._clock_changed(event)) is not None:
            await self._step(performer, changed)
        await self._step(performer, event)

    def _clock_changed(self, event: e.Event) -> e.ClockChanged | None:
        """What to tell the agent first when the host slept or its clock was set since."""
        if isinstance(event, e.AgentStarted):
            return None
        now, wall, offset = time.monotonic(), time.time(), utc_offset_seconds()
        steady = abs(wall - now - self.state.wall_offset) < CLOCK_SLACK_SECONDS
        if steady and offset == self.state.utc_offset_seconds:
            return None
        return e.ClockChanged(now=event.now, wall=wall - now + event.now, utc_offset_seconds=offset)

    async def _step(self, performer: Performer, event: e.Event) -> None:
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

    def _look_at_file(self, watch: FileWatch) -> None:
        """Somebody wrote the configuration file, with an editor or with ``config set``."""
        if watch.changed():
            self.reload()

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


def _network(config: Config) -> Network:
    return Network(proxy=config["network.proxy"], ca_bundle=config["network.ca_bundle"])


def _ended(leave: c.Exit) -> str:
    """The reason of a good end. Raises HostRefused, ServerNotThere."""
    if leave.fault == "refused":
        raise HostRefused(f"{leave.reason}; attach again: axiom-client detach, then attach")
    if leave.fault == "unreachable":
        raise ServerNotThere(f"{leave.reason}; gave up, and what is finished is kept")
    return leave.reason


def _started(held: Held, limits: Limits, options: RunOptions) -> e.AgentStarted:
    return e.AgentStarted(
        now=time.monotonic(),
        wall=time.time(),
        utc_offset_seconds=utc_offset_seconds(),
        instance=secrets.token_hex(8),
        limits=limits,
        tasks=held.tasks,
        reports=held.reports,
        unanswered=held.unanswered,
        pause=held.pause,
        gpu_pauses=held.gpu_pauses,
        drain=held.drain,
        durations=held.durations,
        credit=held.credit,
        credit_day=held.credit_day,
        until_idle=options.until_idle,
        seconds=options.seconds,
    )
