"""A simulated host, project and clock for tests of the pure agent: events in, commands out."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from axiom_client.decide import commands as c
from axiom_client.decide import events as e
from axiom_client.decide.agent import step
from axiom_client.decide.model import AgentState, Limits
from axiom_client.decide.task_run import TaskFinished
from axiom_protocol.manifest import Field, Manifest, Parameter, Resources
from axiom_protocol.messages import Acknowledgement, GpuFacts, Grant, HostFacts, SyncAnswer

C = TypeVar("C", bound=c.Command)

SHA = "a" * 64
FLAG = Field(kind="flag")
WALL = 1_700_000_000.0


def manifest(**changes: Any) -> Manifest:
    """A small numpy experiment."""
    base = Manifest(
        name="walk",
        version="1.0.0",
        title="Walk",
        question="How far?",
        expected_seconds=60.0,
        resources=Resources(memory_bytes=100_000_000, disk_bytes=1_000_000),
        parameters={"steps": Parameter(default=10, min=1, max=100)},
        result={"valid": FLAG, "configs_done": Field(kind="integer")},
        dependencies=["numpy"],
    )
    return msgspec.structs.replace(base, **changes)


def facts(cores: int = 2, gpus: int = 0, **changes: Any) -> HostFacts:
    """A host with 64 GB and the numpy environment."""
    base = HostFacts(
        name="host",
        os="Linux",
        architecture="x86_64",
        cpu_cores=cores,
        memory_bytes=64_000_000_000,
        disk_free_bytes=100_000_000_000,
        gpus=[GpuFacts(uuid=f"GPU-{i}", name="g", memory_bytes=8 << 30) for i in range(gpus)],
        environments=["numpy", "torch"],
    )
    return msgspec.structs.replace(base, **changes)


def grant(task_id: int, **changes: Any) -> Grant:
    """A task of the small experiment."""
    base = Grant(
        task_id=task_id,
        experiment="walk",
        version="1.0.0",
        sha256=SHA,
        parameters={},
        seed=task_id,
        budget_seconds=60.0,
        lease_seconds=3600.0,
    )
    return msgspec.structs.replace(base, **changes)


class World:
    """Calls ``step`` and records its commands."""

    def __init__(self, host: HostFacts | None = None, **started: Any) -> None:
        self.now = 1000.0
        self.state = AgentState()
        self.log: list[e.Event] = []
        self.commands: list[c.Command] = []
        limits = started.pop("limits", Limits())
        gpus_known = started.pop("gpus_known", True)
        started = {"wall": WALL, "instance": "0" * 16, **started}
        self.do(e.AgentStarted(now=self.now, limits=limits, **started))
        self.do(e.FactsProbed(now=self.now, facts=host or facts(), gpus_known=gpus_known))

    def do(self, event: e.Event) -> list[c.Command]:
        """One event; returns the commands."""
        self.log.append(event)
        self.state, commands = step(self.state, event)
        self.commands += commands
        return commands

    def wait(self, seconds: float) -> list[c.Command]:
        """Advance the clock; every timer due by then fires."""
        until = self.now + seconds
        commands: list[c.Command] = []
        while self.state.wake_at <= until:
            self.now = max(self.now, self.state.wake_at)
            commands += self.do(e.TimerFired(now=self.now))
        self.now = until
        return commands

    def answer(self, *grants: Grant, **changes: Any) -> list[c.Command]:
        """The server answers the request in flight: everything is acknowledged."""
        plan = self.state.sync.in_flight
        assert plan is not None, "no request is in flight"
        base = SyncAnswer(
            request_id=plan.request_id,
            grants=list(grants),
            acknowledged=[Acknowledgement(task_id=i) for i in plan.report_ids],
            next_sync_seconds=600.0,
        )
        answer = msgspec.structs.replace(base, **changes)
        return self.do(e.SyncAnswered(now=self.now, answer=answer))

    def fetched(self, sha256: str = SHA, **changes: Any) -> list[c.Command]:
        """The bundle arrives."""
        return self.do(
            e.BundleFetched(
                now=self.now, sha256=sha256, path="/bundle.py", manifest=manifest(**changes)
            )
        )

    def ended(self, task_id: int, outcome: str = "success", **changes: Any) -> list[c.Command]:
        """A task's process ends."""
        finished = TaskFinished(
            task_id=task_id,
            outcome=outcome,  # type: ignore[arg-type]
            elapsed_seconds=60.0,
            cpu_user_seconds=59.0,
            result={"valid": 1, "configs_done": 1} if outcome == "success" else None,
        )
        jitter = changes.pop("jitter", 0.5)
        finished = msgspec.structs.replace(finished, **changes)
        return self.do(e.TaskEnded(now=self.now, finished=finished, jitter=jitter))

    def working(self, count: int) -> World:
        """With ``count`` tasks granted, running as far as slots go; the server has no more."""
        self.answer(*[grant(i + 1) for i in range(count)])
        self.fetched()
        self.hear_nothing()
        return self

    def hear_nothing(self) -> None:
        """The server answers every request without work, until there are no requests."""
        self.wait(1)
        while self.state.sync.in_flight is not None:
            self.answer()
            self.wait(1)

    def phases(self) -> dict[int, str]:
        """The phase of each task in hand."""
        return {i: task.phase for i, task in sorted(self.state.tasks.items())}

    def said(self, words: str) -> list[tuple[str, str]]:
        """(level, text) of the log lines with these words."""
        return [(line.level, line.text) for line in self.saying(c.LogLine) if words in line.text]

    def saying(self, kind: type[C]) -> list[C]:
        """All commands of a kind so far."""
        return of(self.commands, kind)


def of(commands: list[c.Command], kind: type[C]) -> list[C]:
    """The commands of one kind."""
    return [command for command in commands if isinstance(command, kind)]
