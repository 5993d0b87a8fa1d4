"""Large hosts and a real server: how much work they request, get and hold, and request then.

The agent is real and runs in this process, with its loop, journal, HTTP and verified bundles,
against a served project on PostgreSQL. Only two things are simulated, because this machine does not
have them: the host's hardware, and the processes of 240 tasks.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from axiom_client.agent import attach as joining
from axiom_client.agent import perform
from axiom_client.agent.attach import attach
from axiom_client.agent.loop import Agent
from axiom_client.agent.run_options import RunOptions
from axiom_client.config.schema import load_config, read_flags
from axiom_client.decide import events as e
from axiom_client.decide.model import Load
from axiom_client.decide.task_run import TaskFinished
from axiom_client.folders import Folders
from axiom_client.host import cores
from axiom_client.host.cgroup import levels
from axiom_client.host.facts import probe_facts
from axiom_client.host.gpu.probe import GpuReport
from axiom_client.project.api import Api, Network
from axiom_client.run.spec import PlacedTask, TaskEvent, TaskStarted
from axiom_protocol.messages import Capacity, HostFacts, SyncAnswer, SyncRequest
from tests.support.processes import WAIT_SECONDS
from tests.support.programs import FIXTURES, Server, server

TASK_SECONDS = 120.0  # of a run, as declared: the log's new experiment took 121
RECORDED = {
    facts.name: facts
    for facts in msgspec.convert(
        json.loads((FIXTURES / "big_hosts.json").read_text())["hosts"], type=list[HostFacts]
    )
}
OWNERS = itertools.count(1)
BIG = ("epyc7v12", "DESKTOP-N5RAJSE", "7950x", "SPEKTRUM")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A served project with more work than all these hosts can hold."""
    folder = tmp_path_factory.mktemp("big")
    staff = server(folder)
    walk = (FIXTURES / "experiments" / "short_walk.py").read_text()
    walk = walk.replace("expected_seconds = 1\n", f"expected_seconds = {TASK_SECONDS:.0f}\n")
    on_gpu = walk.replace('"short_walk"', '"gpu_walk"').replace("cpu_cores = 1", "gpus = 1")
    scripts = [folder / "short_walk.py", folder / "gpu_walk.py"]
    for script, source in zip(scripts, (walk, on_gpu), strict=True):
        script.write_text(source)
    staff.serve()
    try:
        staff.run("publish", *map(str, scripts), "--skip", "dry-run")  # no GPU to try one on
        staff.run("deploy", "short_walk", "--count", "9000")
        staff.run("deploy", "gpu_walk", "--count", "100", "--gpu")
        yield staff
    finally:
        staff.stop()


class HeldPool:
    """Replaces the process pool: each task runs until it is stopped."""

    def __init__(self, *, emit: Callable[[TaskEvent], None], hide_gpus: Mapping[str, str]) -> None:
        del hide_gpus  # there is no process to hide them from
        self._emit = emit
        self._running: set[int] = set()

    def start(self, spec: PlacedTask) -> None:
        self._running.add(spec.task_id)
        started = TaskStarted(task_id=spec.task_id, pid=spec.task_id)
        asyncio.get_running_loop().call_soon(self._emit, started)

    def stop(self, task_id: int, grace_seconds: float) -> None:
        self._running.discard(task_id)
        finished = TaskFinished(task_id=task_id, outcome="cancelled")
        asyncio.get_running_loop().call_soon(self._emit, finished)

    def prewarm(self, environment: str) -> None:
        """There is no zygote to warm."""

    def allow_standby(self, processes: int) -> None:
        """None waits."""

    async def close(self, grace_seconds: float) -> None:
        self._running.clear()


class IdleMachine:
    """The load of the host: no other programs, and all memory free."""

    def __init__(self, folder: Path) -> None:
        self._disk_bytes = 1 << 40

    def load(self, wanted: object) -> Load:
        return Load(disk_free_bytes=self._disk_bytes // 2, disk_total_bytes=self._disk_bytes)


class Volunteer:
    """One attached host, which a test can run until a condition holds."""

    def __init__(self, folder: Path, project: Server, patch: pytest.MonkeyPatch) -> None:
        self.folders = Folders(
            config=folder / "config", state=folder / "state", cache=folder / "cache"
        )
        self.syncs: list[tuple[SyncRequest, SyncAnswer]] = []
        self.heard = asyncio.Event()
        self._project = project
        self._url = project.url
        host = self

        class HeardApi(Api):
            async def sync(self, request: SyncRequest) -> SyncAnswer:
                answer = await super().sync(request)
                host.syncs.append((request, answer))
                host.heard.set()
                return answer

        patch.setattr(perform, "Api", HeardApi)
        patch.setattr(perform, "Pool", HeldPool)
        patch.setattr(perform, "LoadMeter", IdleMachine)

    def recorded(self, facts: HostFacts, patch: pytest.MonkeyPatch) -> Volunteer:
        """Make the agent report these facts from now on."""

        async def report(_: object) -> GpuReport:
            return GpuReport(list(facts.gpus))

        def told(name: str, folder: Path, found: list[Any], speed: float = 0.0) -> HostFacts:
            return msgspec.structs.replace(facts, gpus=found)

        for module in (joining, perform):
            patch.setattr(module, "probe_facts", told)
            patch.setattr(module.GpuProbe, "report", report)
        return self

    def join(self) -> Volunteer:
        # Staff know whose hosts these are: a stranger's would begin with a few tasks.
        key = self._project.json("users", "add", f"owner {next(OWNERS)}")["account_key"]
        asyncio.run(attach(self.folders, self._url, Network(), account_key=key))
        return self

    def run(self, until: Callable[[Agent], bool], *settings: str, crash: bool = False) -> Agent:
        """Run until the condition holds and no request to the server is open."""

        async def inside() -> Agent:
            identity = joining.known_identity(self.folders)
            config = load_config(self.folders.config_file, {}, read_flags(settings))
            agent = Agent(self.folders, config, identity, RunOptions(flags=list(settings)))
            running = asyncio.create_task(agent.run())
            async with asyncio.timeout(WAIT_SECONDS):
                while not (until(agent) and agent.state.sync.in_flight is None):
                    if running.done():
                        running.result()
                    await asyncio.sleep(0.02)
            self.heard = asyncio.Event()  # of this loop
            agent.put(e.SyncRequested(now=asyncio.get_running_loop().time()))
            await asyncio.wait_for(self.heard.wait(), WAIT_SECONDS)
            if crash:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)
            else:
                agent.ask_stop("the test is over")
                await running
            return agent

        return asyncio.run(inside())

    def holds(self, count: int) -> Callable[[Agent], bool]:
        """Whether so many tasks are in hand and none waits for its bundle."""
        return lambda agent: (
            len(agent.state.tasks) == count
            and all(t.phase != "granted" for t in agent.state.tasks.values())
        )


@pytest.fixture
def volunteer(
    tmp_path: Path, project: Server, monkeypatch: pytest.MonkeyPatch
) -> Callable[[HostFacts], Volunteer]:
    """Makes an attached host of such facts."""

    def make(facts: HostFacts) -> Volunteer:
        made = Volunteer(tmp_path / "host", project, monkeypatch)
        return made.recorded(facts, monkeypatch).join()

    return make


def batch(facts: HostFacts, buffer_seconds: float) -> tuple[int, int]:
    """Tasks for cores and for GPUs that fill every slot and keep the buffer."""
    ahead = buffer_seconds / TASK_SECONDS
    size = [n + math.ceil(n * ahead) for n in (facts.cpu_cores, len(facts.gpus))]
    return size[0], size[1]


def granted(answer: SyncAnswer) -> tuple[int, int]:
    devices = [grant.device for grant in answer.grants]
    return devices.count("cpu"), devices.count("gpu")


def asks_nothing(capacity: Capacity) -> bool:
    return not (capacity.cpu_slots_free or capacity.gpu_slots_free or capacity.buffer_seconds)


@pytest.mark.parametrize("name", BIG)
@pytest.mark.parametrize("buffer_seconds", [0.0, 300.0])
def test_one_exchange_fills_a_big_host(
    volunteer: Callable[[HostFacts], Volunteer], name: str, buffer_seconds: float
) -> None:
    facts = RECORDED[name]
    host = volunteer(facts)
    wanted = batch(facts, buffer_seconds)
    host.run(host.holds(sum(wanted)), f"work.buffer={buffer_seconds:.0f} s")
    request, answer = host.syncs[0]
    assert request.capacity.cpu_slots_free == request.capacity.cpu_slots == facts.cpu_cores
    assert request.capacity.buffer_seconds == buffer_seconds
    assert granted(answer)[0] == wanted[0]  # all its cores at once
    asking = [request for request, _ in host.syncs if not asks_nothing(request.capacity)]
    if facts.gpus:  # they are looked for in a child, for which the cores do not wait
        free = [
            (request.capacity.cpu_slots_free, request.capacity.gpu_slots_free) for request in asking
        ]
        assert (0, len(facts.gpus)) in free[1:]
    assert len(asking) <= 1 + 2 * bool(facts.gpus)  # the GPUs, then the buffer behind them
    assert sum(granted(answer)[0] for _, answer in host.syncs) == wanted[0]
    assert sum(granted(answer)[1] for _, answer in host.syncs) == wanted[1]
    assert asks_nothing(host.syncs[-1][0].capacity)  # a person's "sync" adds nothing


def test_a_host_that_holds_plenty_asks_for_nothing(
    volunteer: Callable[[HostFacts], Volunteer], project: Server
) -> None:
    """An incident of the original project: a host of 16 cores held 96 tasks and got more."""
    facts = RECORDED["sixteen"]
    host = volunteer(facts)
    host.run(host.holds(96), f"work.buffer={5 * TASK_SECONDS:.0f} s", crash=True)
    assert granted(host.syncs[0][1]) == (96, 0)
    first = len(host.syncs)
    for buffer in ("5 min", "24 h"):  # more than five behind each core are held for no buffer
        agent = host.run(host.holds(96), f"work.buffer={buffer}", crash=True)
        assert sum(t.phase == "running" for t in agent.state.tasks.values()) == 16
    assert len(host.syncs) > first
    for request, answer in host.syncs[first:]:
        assert len(request.in_hand) == 96
        assert asks_nothing(request.capacity)
        assert not answer.grants
    [row] = [h for h in project.json("hosts") if h["name"] == facts.name]
    filled = project.json("deploy", "short_walk", "--fill-idle")
    assert str(row["host_id"]) not in filled["hosts"]


def test_a_container_with_one_and_a_half_cores_gets_one_task(
    tmp_path: Path, project: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = tmp_path / "cgroup"
    tree.mkdir()
    for name, text in {
        "cgroup.controllers": "cpu memory\n", "cpu.max": "150000 100000\n",
        "memory.max": f"{3 << 30}\n", "memory.current": f"{1 << 30}\n",
        "memory.stat": f"anon {1 << 29}\ninactive_file {1 << 28}\n",
    }.items():  # fmt: skip
        (tree / name).write_text(text)
    listing = tmp_path / "listing"
    listing.write_text("0::/\n")
    monkeypatch.setattr(cores, "levels", partial(levels, listing=listing, root=tree))
    facts = probe_facts("container", tmp_path, [])
    assert facts.cpu_cores == 1
    assert facts.memory_bytes == min(3 << 30, facts.memory_bytes)
    host = Volunteer(tmp_path / "host", project, monkeypatch).join()
    host.run(host.holds(4), "work.buffer=5 min", "host.name=container")
    request, answer = host.syncs[0]
    assert (request.capacity.cpu_slots_free, request.capacity.cpu_slots) == (1, 1)
    assert request.capacity.memory_free_bytes == int(facts.memory_bytes * 0.75)
    assert granted(answer) == (4, 0)  # one that runs, and three of two minutes behind it
    assert asks_nothing(host.syncs[-1][0].capacity)
