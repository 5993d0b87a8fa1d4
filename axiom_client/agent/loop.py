"""The agent's event loop: one queue of events, without polling.

event -> step (pure) -> journal -> effects -> events
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import secrets
import time
from contextlib import suppress
from typing import BinaryIO

import msgspec

from axiom_client.agent.join import is_temporary, rejoin
from axiom_client.agent.journal import Journal, JournalContents
from axiom_client.agent.lock import Lock
from axiom_client.agent.perform import Performer, Setup
from axiom_client.agent.recovery import open_journal
from axiom_client.agent.run_options import RunOptions
from axiom_client.agent.signals import handle_signals
from axiom_client.agent.updates import Updates
from axiom_client.config.schema import Config, load_config, read_flags
from axiom_client.control.server import ControlServer
from axiom_client.control.snapshot import Membership, Snapshot, snapshot
from axiom_client.decide import commands as c
from axiom_client.decide import events as e
from axiom_client.decide.agent import step
from axiom_client.decide.model import AgentState
from axiom_client.decide.retry import retry_sync
from axiom_client.errors import (
    ConfigProblem,
    DiskFull,
    HostRefused,
    ProjectProblem,
    ServerNotThere,
    UpdateTakenUp,
)
from axiom_client.folders import Folders
from axiom_client.host.clock import utc_offset_seconds
from axiom_client.host.file_watch import FileWatch
from axiom_client.project.api import Network
from axiom_client.project.identity import Identity, write_identity
from axiom_client.service.notify import Notifier
from axiom_protocol.text import counted

DISK_RETRY_SECONDS = 5.0  # between attempts to write while the disk is full
CLOCK_SLACK_SECONDS = 1.0  # a clock synchronized by NTP drifts by less between two events
REJOIN_FAULTS = ("copied", "restored")  # after which the agent becomes a new host
CLOSE_SECONDS = 2.0  # for tasks to end when the agent ends without waiting for them

log = logging.getLogger("axiom_client")


class Agent:
    """The running agent. ``state`` is replaced and never changed, so it can be read at any time."""

    def __init__(
        self, folders: Folders, config: Config, identity: Identity, options: RunOptions
    ) -> None:
        self._folders = folders
        self._config = config
        self._identity = identity
        self._options = options
        self._queue: asyncio.Queue[e.Event] = asyncio.Queue()
        self._stop_asked = asyncio.Event()
        self._notifier = Notifier()
        self._updates = Updates(folders, lambda: self._identity, lambda: self._config, self.put)
        self._record: BinaryIO | None = None
        self._performer: Performer | None = None
        self.state = AgentState()
        self._last_refusal = ""  # of a changed configuration, to log each only once
        self.held_up = ""  # why the agent cannot go on (the disk is full); empty when it can

    async def run(self) -> str:
        """Run until there is a reason to end; returns it. Raises AxiomError."""
        self._folders.make()
        lock = Lock(self._folders.lock_file)
        try:
            while True:
                leave = await self._run_once()
                if leave.fault not in REJOIN_FAULTS:
                    return _ended(leave)
                if await self._rejoin(leave) is None:
                    return "stopped before it had joined the project again"
        finally:
            lock.release()

    async def _run_once(self) -> c.Exit:
        """Run with the present identity until there is a reason to end it."""
        self._queue, self.state = asyncio.Queue(), AgentState()
        journal = open_journal(self._folders.journal_file)
        try:
            leave = await self._run(journal)
            if leave.fault == "copied":
                journal.forget_project()
            return leave
        finally:
            journal.close()

    async def _rejoin(self, leave: c.Exit) -> Identity | None:
        """Become a new host of the same account; None when the agent is told to stop meanwhile."""
        facts = self.state.facts
        assert facts is not None  # they were sent with the request that was answered
        for failures in itertools.count(1):
            try:
                joined = await rejoin(
                    self._identity, facts, _network(self._config),
                    account_may_be_gone=leave.fault == "restored",
                )  # fmt: skip
                break
            except ProjectProblem as problem:
                if not is_temporary(problem):
                    raise HostRefused(self._attach_by_hand(str(problem))) from None
                log.warning("%s; joining as a new host is tried again", problem)
            wait = retry_sync(0.0, failures, random.random(), retry_after_seconds=0.0).at
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stop_asked.wait(), wait)
            if self._stop_asked.is_set():
                return None
        write_identity(self._folders.identity_file, joined)
        log.warning(
            "%s: it was host %d and is now host %d of the same account",
            leave.reason, self._identity.host_id, joined.host_id,
        )  # fmt: skip
        self._identity = joined
        return joined

    def _attach_by_hand(self, problem: str) -> str:
        file = self._folders.identity_file
        return f"{problem}; delete {file} and run: axiom-client attach {self._identity.url}"

    def put(self, event: e.Event) -> None:
        """Queue an event."""
        self._queue.put_nowait(event)

    def snapshot(self) -> Snapshot:
        """The agent's present state, for people and programs."""
        who = Membership(
            project=self._identity.project,
            url=self._identity.url,
            host_id=self._identity.host_id,
            user=self._identity.user,
        )
        traffic = self._performer.traffic if self._performer else None
        return snapshot(
            self.state, who, time.monotonic(), held_up=self.held_up, traffic=traffic,
            updates=self._updates.described(),
        )  # fmt: skip

    def ask_stop(self, reason: str) -> None:
        """End in an orderly way; at once when called a second time."""
        hurry = self._stop_asked.is_set()
        self._stop_asked.set()
        self._notifier.stopping(reason)
        self.put(e.StopRequested(now=time.monotonic(), reason=reason, hurry=hurry))

    def reload(self) -> str:
        """Read the configuration again and apply it if it changed.

        Returns what is wrong with it, and then keeps the old one; else an empty string. ``config
        set`` causes two calls, by its request and by the file watch; the second finds no change.
        """
        self._notifier.reloading()
        flags = read_flags(self._options.flags)
        try:
            config = load_config(self._folders.config_file, flags=flags)
        except ConfigProblem as problem:
            return self._refuse_config(str(problem))
        self._notifier.ready()
        self._last_refusal = ""
        if config != self._config:
            self._use_config(config)
        return ""

    def _refuse_config(self, problem: str) -> str:
        if problem != self._last_refusal:
            log.error("the changed configuration is refused, the old one stays in use: %s", problem)
        self._last_refusal = problem
        self._notifier.ready(f"the changed configuration is refused: {problem}")
        return problem

    def _use_config(self, config: Config) -> None:
        before, self._config = self._config, config
        if self._performer is not None and _network(before) != _network(config):
            self._performer.use_network(_network(config))
        log.info("the changed configuration is in use")
        self.put(
            e.ConfigChanged(
                now=time.monotonic(), limits=config.limits(), control=config.account_control()
            )
        )

    # --- the loop ---------------------------------------------------------------------------------

    async def _run(self, journal: Journal) -> c.Exit:
        contents = journal.contents()
        setup = Setup(
            folders=self._folders,
            identity=self._identity,
            network=_network(self._config),
            host_name=self._config["host.name"] or self._identity.host_name,
            run=secrets.token_hex(8),
        )
        performer = self._performer = Performer(setup, journal, self.put)
        watch = FileWatch(self._folders.config_file)
        control = ControlServer(self._folders.control_socket, self)
        alive = asyncio.create_task(self._notifier.keep_alive(self._status_line))
        try:
            performer.delete_unknown_folders({r.grant.task_id for r in contents.tasks})
            await control.start()
            handle_signals(self.ask_stop, self.reload)
            self._updates.start(lambda: self.ask_stop("the launcher has ended"))
            self._open_record()
            if watch.descriptor >= 0:
                asyncio.get_running_loop().add_reader(watch.descriptor, self._config_touched, watch)
            self.put(_started(contents, self._config, self._options, setup.run))
            self._notifier.ready()
            while performer.exit is None:
                await self._handle(performer, await self._queue.get())
                if performer.fault is not None:
                    raise performer.fault
        finally:
            alive.cancel()
            await self._updates.close()
            if watch.descriptor >= 0:
                asyncio.get_running_loop().remove_reader(watch.descriptor)
            watch.close()
            await control.close()
            await performer.close(CLOSE_SECONDS)
            if self._record is not None:
                self._record.close()
        return performer.exit

    async def _handle(self, performer: Performer, event: e.Event) -> None:
        if (changed := self._clock_changed(event)) is not None:
            await self._step(performer, changed)
        await self._step(performer, event)
        performer.probe_changed_cores(self.state.facts.cpu_cores if self.state.facts else None)

    def _clock_changed(self, event: e.Event) -> e.ClockChanged | None:
        """The event to handle first when the host slept or its clock was set; else None."""
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
                await self._wait_for_space(full)
        self.held_up = ""
        self.state = state
        if isinstance(event, e.SyncAnswered):
            self._updates.contacted()
        performer.perform(commands)

    async def _wait_for_space(self, full: DiskFull) -> None:
        """Wait before the next attempt to write. Raises ``full`` when the agent is told to stop."""
        if not self.held_up:
            log.error("%s", full)
        self.held_up = str(full)
        try:
            await asyncio.wait_for(self._stop_asked.wait(), DISK_RETRY_SECONDS)
        except TimeoutError:
            return
        raise full

    def _config_touched(self, watch: FileWatch) -> None:
        """Something in the configuration's folder changed."""
        if watch.changed():
            self.reload()

    def _status_line(self) -> str:
        shot = self.snapshot()
        running = counted(shot.tasks_running, "task")
        return f"{shot.state}: {running} running, {shot.tasks_waiting} waiting"

    def _open_record(self) -> None:
        if self._options.record_events is not None:
            self._record = self._options.record_events.open("wb")


def _network(config: Config) -> Network:
    return Network(proxy=config["network.proxy"], ca_bundle=config["network.ca_bundle"])


def _ended(leave: c.Exit) -> str:
    """The reason for the end. Raises HostRefused, ServerNotThere where it is a failure."""
    if leave.fault == "refused":
        raise HostRefused(f"{leave.reason}; attach again: axiom-client detach, then attach")
    if leave.fault == "unreachable":
        raise ServerNotThere(f"{leave.reason}; gave up; unsent reports are kept for the next start")
    if leave.fault == "update":
        raise UpdateTakenUp(leave.reason)
    return leave.reason


def _started(
    contents: JournalContents, config: Config, options: RunOptions, run: str
) -> e.AgentStarted:
    return e.AgentStarted(
        now=time.monotonic(),
        wall=time.time(),
        utc_offset_seconds=utc_offset_seconds(),
        instance=run,
        limits=config.limits(),
        control=config.account_control(),
        account=contents.account,
        mode=contents.mode,
        modes=contents.modes,
        tasks=contents.tasks,
        reports=contents.reports,
        unanswered=contents.unanswered,
        pause=contents.pause,
        gpu_pauses=contents.gpu_pauses,
        drain=contents.drain,
        durations=contents.durations,
        credit=contents.credit,
        credit_day=contents.credit_day,
        incident=contents.incident,
        kept=contents.kept,
        epoch=contents.epoch,
        until_idle=options.until_idle,
        seconds=options.seconds,
    )
