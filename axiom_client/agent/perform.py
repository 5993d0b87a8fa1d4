"""Performs the commands that ``decide`` gives; results come back as events. Decides nothing."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from axiom_client.agent.journal import Journal
from axiom_client.control.snapshot import Traffic
from axiom_client.decide import commands as c
from axiom_client.decide import events as e
from axiom_client.decide.model import SyncPlan
from axiom_client.decide.task_run import TaskFinished
from axiom_client.errors import (
    HostRefused,
    ProjectProblem,
    RequestRefused,
    ServerNotThere,
)
from axiom_client.folders import Folders
from axiom_client.host.boot import run_place
from axiom_client.host.core_lists import NodePlaces, numa_nodes, slow_cores
from axiom_client.host.cores import cores_now, probe_cores
from axiom_client.host.facts import probe_facts
from axiom_client.host.gpu import vendors
from axiom_client.host.gpu.probe import GpuProbe, GpuReport
from axiom_client.host.load_meter import LoadMeter
from axiom_client.host.speed import known_speed
from axiom_client.project.api import Api, Network, Overloaded
from axiom_client.project.fetch import Fetcher
from axiom_client.project.fetch_child import BundleReply, BundleRequest, FetchSettings
from axiom_client.project.identity import Identity
from axiom_client.run import spec, task_folder
from axiom_client.run.pool import Pool
from axiom_protocol.messages import AgentRun, SyncRequest

REMOVAL_STRETCH_SECONDS = 0.01  # of deleting without a break: the event loop is blocked meanwhile
REMOVAL_PAUSE_SECONDS = 0.04
CORES_CHECK_SECONDS = 10.0  # takes a fifth of a millisecond
REMOVAL_SECONDS_AT_CLOSE = 2.0  # the rest is deleted at the next start

log = logging.getLogger("axiom_client")


class Setup(Struct, frozen=True, kw_only=True):
    """What the performer needs of the configuration and of this host's identity."""

    folders: Folders
    identity: Identity
    network: Network
    host_name: str
    run: str  # random, made at this start of the agent


class Performer:
    """Performs commands and passes their results to ``emit`` as events."""

    def __init__(self, setup: Setup, journal: Journal, emit: Callable[[e.Event], None]) -> None:
        self._setup = setup
        self._journal = journal
        self._emit = emit
        self._pool = Pool(emit=self._task_changed, hide_gpus=vendors.hidden())
        self._api = Api(setup.identity.url, setup.network, setup.identity.token)
        self._fetcher = Fetcher(_fetch_settings(setup, setup.network), self._bundle_replied)
        self._load_meter = LoadMeter(setup.folders.state)
        self._gpu_probe = GpuProbe()
        self._gpus: GpuReport | None = None  # None: not yet searched for
        self._speed = known_speed(setup.folders.speed_file, probe_cores().processor)
        self._nodes = NodePlaces()
        self._slow_cores = slow_cores()
        self._cores_checked_at = 0.0
        self._place = run_place(setup.folders.state, setup.identity.token)
        self._timer: asyncio.TimerHandle | None = None
        self._running: set[asyncio.Task[None]] = set()
        self._removals: deque[Iterator[None]] = deque()
        self.exit: c.Exit | None = None
        self.fault: BaseException | None = None  # of background work, for the loop to raise

    def persist(self, commands: list[c.Command]) -> None:
        """Write the commands for the journal, all or none. Raises DiskFull or JournalBroken."""
        writes = [command for command in commands if isinstance(command, c.Persistent)]
        if writes:
            self._journal.write(writes)

    def perform(self, commands: list[c.Command]) -> None:
        """Perform all other commands, in order. Long work goes on in the background."""
        for command in commands:
            if not isinstance(command, c.Persistent):
                self._perform_one(command)

    def delete_unknown_folders(self, known: set[int]) -> None:
        """Delete the folders of all tasks but the ``known`` ones."""
        names = {str(task_id) for task_id in known}
        for folder in self._setup.folders.tasks.iterdir():
            if folder.name not in names:
                self._delete(folder)

    async def close(self, grace_seconds: float) -> None:
        """End all tasks and other work; tasks get ``grace_seconds`` to write a checkpoint."""
        if self._timer is not None:
            self._timer.cancel()
        for running in self._running:
            running.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        _delete_for(REMOVAL_SECONDS_AT_CLOSE, self._removals)
        await self._fetcher.close()
        await self._pool.close(grace_seconds)
        await self._api.close()

    @property
    def traffic(self) -> Traffic:
        """Bytes sent and received since the start."""
        return Traffic(
            sent_bytes=self._api.traffic.sent_bytes,
            received_bytes=self._api.traffic.received_bytes + self._fetcher.received_bytes,
        )

    def use_network(self, network: Network) -> None:
        """Use a changed proxy or certificates. An open request is cut off and sent again."""
        before, identity = self._api, self._setup.identity
        self._api = Api(identity.url, network, identity.token, before.traffic)
        self._fetcher.settings = _fetch_settings(self._setup, network)
        self._spawn(before.close())

    # --- one command ------------------------------------------------------------------------------

    def _perform_one(self, command: c.Command) -> None:
        match command:
            case c.StartTask():
                self._start(command)
            case c.PauseTask(task_id=task_id):
                self._pool.pause(task_id)
            case c.ResumeTask(task_id=task_id):
                self._pool.resume(task_id)
            case c.StopTask(task_id=task_id, grace_seconds=grace_seconds):
                self._pool.stop(task_id, grace_seconds)
            case c.ClearFolder(task_id=task_id):
                self._delete(self._folder(task_id))
            case c.Prewarm(environment=environment):
                self._pool.prewarm(environment)
                self._fetcher.prestart()
            case c.ReleaseIdle():
                self._pool.release_idle()
            case c.AllowStandby(processes=processes):
                self._pool.allow_standby(processes)
            case c.FetchBundle():
                self._fetcher.fetch(
                    BundleRequest(
                        experiment=command.experiment,
                        version=command.version,
                        sha256=command.sha256,
                        accepted=command.accepted,
                    )
                )
            case c.Sync(plan=plan):
                self._spawn(self._sync(plan))
            case c.WakeAt(at=at):
                self._set_timer(at)
            case c.ReloadTasks(task_ids=task_ids):
                self._reload(task_ids)
            case c.ProbeHost():
                self._probe()
            case c.MeasureLoad():
                self._emit(
                    e.LoadMeasured(now=time.monotonic(), load=self._load_meter.load(command))
                )
            case c.LogLine(text=text, level=level):
                log.log(getattr(logging, level.upper()), text)
            case c.Exit():
                self.exit = command

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        """Store an unexpected error of background work, and wake the loop, which raises it."""
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.fault = error
            self._emit(e.TimerFired(now=time.monotonic()))

    def _set_timer(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        delay = max(0.0, at - time.monotonic())
        self._timer = asyncio.get_running_loop().call_later(
            delay, lambda: self._emit(e.TimerFired(now=time.monotonic()))
        )

    def _delete(self, folder: Path) -> None:
        """Delete a task's folder, whatever it holds, in small steps between other events."""
        self._removals.append(task_folder.removal(task_folder.set_aside(folder)))
        if len(self._removals) == 1:
            self._spawn(self._delete_all())

    async def _delete_all(self) -> None:
        while True:
            if not _delete_for(REMOVAL_STRETCH_SECONDS, self._removals):
                return
            await asyncio.sleep(REMOVAL_PAUSE_SECONDS)

    # --- tasks ------------------------------------------------------------------------------------

    def _folder(self, task_id: int) -> Path:
        return self._setup.folders.tasks / str(task_id)

    def _start(self, command: c.StartTask) -> None:
        try:
            placed = self._placed(command)
        except OSError as error:  # no room for a folder, or something else has its name
            text = f"the task's folder cannot be made: {error}"
            for task_id in command.spec.task_ids:
                self._task_changed(TaskFinished(task_id=task_id, outcome="lost", message=text))
            return
        self._pool.start(placed)

    def _placed(self, command: c.StartTask) -> spec.PlacedTask:
        folders = {task_id: self._folder(task_id) for task_id in command.spec.task_ids}
        for folder in folders.values():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        others = [
            msgspec.structs.replace(member, folder=str(folders[member.task_id]))
            for member in command.spec.others
        ]
        return spec.PlacedTask(
            **msgspec.structs.asdict(msgspec.structs.replace(command.spec, others=others)),
            device=vendors.torch_device(command.gpus),
            driver=vendors.access(command.gpus),
            folder=str(folders[command.task_id]),
            cores=() if command.gpus else self._nodes.place(command.task_id, numa_nodes()),
            slow=frozenset() if command.gpus else self._slow_cores,
        )

    def _task_changed(self, event: spec.TaskEvent) -> None:
        now = time.monotonic()
        match event:
            case spec.TaskStarted():
                self._emit(e.TaskStarted(now=now, task_id=event.task_id, pid=event.pid))
            case spec.TaskProgressed():
                self._emit(
                    e.TaskProgressed(now=now, task_id=event.task_id, fraction=event.fraction)
                )
            case TaskFinished():
                self._nodes.leave(event.task_id)
                self._emit(e.TaskEnded(now=now, finished=event, jitter=random.random()))

    # --- the project ------------------------------------------------------------------------------

    def _bundle_replied(self, reply: BundleReply) -> None:
        self._emit(_bundle_event(reply))

    async def _sync(self, plan: SyncPlan) -> None:
        request = SyncRequest(
            request_id=plan.request_id,
            host=plan.host,
            capacity=plan.capacity,
            in_hand=plan.in_hand,
            reports=self._journal.reports(plan.report_ids, plan.epoch),
            epoch=plan.epoch,
            draining=plan.draining,
            run=AgentRun(run=self._setup.run, place=self._place, ending=plan.ending),
            status=plan.status,
        )
        try:
            answer = await self._api.sync(request)
            if answer.request_id != plan.request_id:
                raise ServerNotThere("the server's answer belongs to another request; trying again")
        except ProjectProblem as problem:
            restored = isinstance(problem, HostRefused) and await self._is_restored(plan.epoch)
            self._emit(_sync_failed(problem, restored=restored))
            return
        self._emit(e.SyncAnswered(now=time.monotonic(), answer=answer))

    async def _is_restored(self, epoch: str) -> bool:
        """Whether the server is in another epoch than ``epoch``, in which it knew this host."""
        try:
            found = (await self._api.project()).epoch
        except ProjectProblem:
            return False
        return bool(epoch and found) and found != epoch

    def _reload(self, task_ids: list[int]) -> None:
        records, reports = self._journal.tasks_again(task_ids)
        self._emit(e.TasksReloaded(now=time.monotonic(), tasks=records, reports=reports))

    # --- the host ---------------------------------------------------------------------------------

    def _probe(self) -> None:
        self._emit_facts()
        self._spawn(self._probe_gpus())

    def probe_changed_cores(self, known: int | None) -> None:
        """Probe the host again if it does not have the ``known`` number of cores any more.

        Cores are plugged, and cgroups and cpusets change without any notice.
        """
        now = time.monotonic()
        if known is None or now < self._cores_checked_at + CORES_CHECK_SECONDS:
            return
        self._cores_checked_at = now
        if cores_now() != known:
            self._emit_facts()

    def _emit_facts(self) -> None:
        self._slow_cores = slow_cores()
        known = self._gpus is not None
        report = self._gpus or GpuReport()
        facts = probe_facts(
            self._setup.host_name, self._setup.folders.state, report.gpus, self._speed
        )
        self._emit(
            e.FactsProbed(
                now=time.monotonic(), facts=facts, gpus_known=known, gpu_problems=report.problems
            )
        )

    async def _probe_gpus(self) -> None:
        report = await self._gpu_probe.report()
        if report != self._gpus:
            self._gpus = report
            self._emit_facts()


def _delete_for(seconds: float, removals: deque[Iterator[None]]) -> bool:
    """Continue these removals for some seconds; returns whether there is more to do."""
    until = time.monotonic() + seconds
    while removals:
        for _ in removals[0]:
            if time.monotonic() > until:
                return True
        removals.popleft()
    return False


def _fetch_settings(setup: Setup, network: Network) -> FetchSettings:
    return FetchSettings(
        folder=str(setup.folders.bundles),
        url=setup.identity.url,
        root_fingerprint=setup.identity.root_fingerprint,
        proxy=network.proxy,
        ca_bundle=network.ca_bundle,
    )


def _bundle_event(reply: BundleReply) -> e.Event:
    now, sha256 = time.monotonic(), reply.sha256
    if reply.outcome == "fetched" and reply.manifest is not None:
        return e.BundleFetched(now=now, sha256=sha256, path=reply.path, manifest=reply.manifest)
    if reply.outcome == "refused":
        return e.BundleRefused(now=now, sha256=sha256, problem=reply.problem)
    jitter = random.random()
    return e.BundleFailed(now=now, sha256=sha256, problem=reply.problem, jitter=jitter)


def _sync_failed(problem: ProjectProblem, *, restored: bool) -> e.SyncFailed:
    return e.SyncFailed(
        now=time.monotonic(),
        problem=str(problem),
        again=not isinstance(problem, (RequestRefused, HostRefused)),
        fatal=isinstance(problem, HostRefused),
        restored=restored,
        jitter=random.random(),
        retry_after_seconds=problem.retry_after_seconds if isinstance(problem, Overloaded) else 0.0,
    )
