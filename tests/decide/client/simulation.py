"""Simulate an agent with random events, for property tests and for the recorded log.

The simulated project behaves like a real one: it answers a repeated request as it did the first
time, and counts a report only once.
"""

from __future__ import annotations

import random

import msgspec

from axiom_client.decide import commands as c
from axiom_client.decide import events as e
from axiom_client.decide.model import Limits, Load, SyncPlan, TaskRecord
from axiom_client.decide.task_run import TaskFinished
from axiom_protocol.manifest import Resources
from axiom_protocol.messages import Acknowledgement, Grant, HostFacts, Report, SyncAnswer
from tests.support.world import SHA, World, facts, grant, manifest

SHAS = (SHA, "b" * 64, "c" * 64, "d" * 64)
NEEDS = {
    SHAS[0]: Resources(memory_bytes=500_000_000, disk_bytes=1_000_000),
    SHAS[1]: Resources(memory_bytes=20_000_000_000, disk_bytes=4_000_000_000),
    SHAS[2]: Resources(memory_bytes=1_000_000_000, disk_bytes=1_000_000, cpu_cores=2),
    SHAS[3]: Resources(
        memory_bytes=1_000_000_000, disk_bytes=1_000_000, gpu_share=0.5, gpu_memory_bytes=3 << 30
    ),
}


class Life:
    """One agent, its journal and its project, driven by ``rng``."""

    def __init__(self, rng: random.Random, host: HostFacts | None = None) -> None:
        self.rng = rng
        self.host = host or facts(cores=4, gpus=2)
        self.world = World(self.host)
        self.granted: dict[int, Grant] = {}
        self.received: dict[int, Report] = {}
        self.processes: dict[int, float] = {}  # task -> elapsed so far, of live processes
        self.paused: set[int] = set()
        self.fetching: set[str] = set()
        self.journal_tasks: dict[int, TaskRecord] = {}
        self.journal_reports: dict[int, Report] = {}
        self.unanswered: SyncPlan | None = None
        self.sent: SyncPlan | None = None
        self._answers: dict[str, SyncAnswer] = {}
        self._next_id = 1
        self.exits = 0
        self.starts = 1
        self.obey(self.world.commands)

    # --- what the agent's loop would do -----------------------------------------------------------

    def obey(self, commands: list[c.Command]) -> None:
        """Carry commands out, as the journal, the pool and the network would."""
        for command in commands:
            match command:
                case c.SaveTask(record=record):
                    self.journal_tasks[record.grant.task_id] = record
                case c.SaveReport(report=report):
                    self.journal_reports[report.task_id] = report
                case c.ForgetTask(task_id=task_id):
                    del self.journal_tasks[task_id], self.journal_reports[task_id]
                case c.SaveRequest(plan=plan):
                    self.unanswered = plan
                case c.FetchBundle(sha256=sha256):
                    self.fetching.add(sha256)
                case c.StartTask(task_id=task_id):
                    assert task_id not in self.processes
                    assert task_id in self.journal_tasks
                    self.processes[task_id] = 0.0
                case c.PauseTask(task_id=task_id):
                    self.paused.add(task_id)
                case c.ResumeTask(task_id=task_id):
                    self.paused.discard(task_id)
                case c.Sync(plan=plan):
                    assert self.sent is None, "two requests at once"
                    assert set(plan.report_ids) <= self.journal_reports.keys()
                    self.sent = plan
                case c.Exit():
                    self.exits += 1

    def do(self, event: e.Event) -> None:
        """One event; its commands are carried out."""
        self.obey(self.world.do(event))

    # --- what may happen --------------------------------------------------------------------------

    def happen(self) -> None:
        """One random thing that is possible now."""
        if self.world.state.exited:
            self.crash()  # the agent has exited after a drain; start it again
        choices = [self.time_passes] * 4 + [self.person] * 2 + [self.load] * 2
        choices += [self.host_changes]
        if self.sent is not None:
            choices += [self.server_answers] * 4 + [self.answer_is_lost]
        if self.fetching:
            choices += [self.bundle_comes] * 3 + [self.bundle_fails]
        if self.processes:
            choices += [self.task_ends] * 3 + [self.task_progresses]
        self.rng.choice(choices)()

    def time_passes(self) -> None:
        seconds = self.rng.choice([0.1, 1.0, 5.0, 60.0, 400.0])
        for task_id in self.processes.keys() - self.paused:
            self.processes[task_id] += seconds
        until = self.world.now + seconds
        while self.world.state.wake_at <= until:
            self.world.now = max(self.world.now, self.world.state.wake_at)
            self.do(e.TimerFired(now=self.world.now))
        self.world.now = until

    def server_answers(self) -> None:
        plan, self.sent = self.sent, None
        assert plan is not None
        self.do(e.SyncAnswered(now=self.world.now, answer=self._answer(plan)))

    def answer_is_lost(self) -> None:
        plan, self.sent = self.sent, None
        assert plan is not None
        if self.rng.random() < 0.5:
            self._answer(plan)  # it arrived; only the answer did not
        self.do(e.SyncFailed(now=self.world.now, problem="away", jitter=self.rng.random()))

    def _answer(self, plan: SyncPlan) -> SyncAnswer:
        for task_id in plan.report_ids:
            self.received.setdefault(task_id, self.journal_reports[task_id])
        if plan.request_id not in self._answers:
            self._answers[plan.request_id] = SyncAnswer(
                request_id=plan.request_id,
                grants=self._grants(plan),
                acknowledged=[Acknowledgement(task_id=i) for i in plan.report_ids],
                cancelled=[t.task_id for t in plan.in_hand if self.rng.random() < 0.02],
                next_sync_seconds=self.rng.choice([5.0, 60.0, 600.0]),
            )
        return self._answers[plan.request_id]

    def _grants(self, plan: SyncPlan) -> list[Grant]:
        capacity = plan.capacity
        if plan.draining or not capacity.cpu_slots:
            return []
        made = []
        ahead = 3 if capacity.buffer_seconds else 0
        for _ in range(self.rng.randint(0, capacity.cpu_slots_free + ahead)):
            sha256 = self.rng.choice(SHAS)
            device = "gpu" if capacity.gpu_slots and self.rng.random() < 0.4 else "cpu"
            made.append(grant(self._next_id, sha256=sha256, device=device))
            self._next_id += 1
        self.granted |= {g.task_id: g for g in made}
        return made

    def bundle_comes(self) -> None:
        sha256 = self.rng.choice(sorted(self.fetching))
        self.fetching.discard(sha256)
        self.do(
            e.BundleFetched(
                now=self.world.now, sha256=sha256, path="/b.py",
                manifest=manifest(resources=NEEDS[sha256]),
            )
        )  # fmt: skip

    def bundle_fails(self) -> None:
        sha256 = self.rng.choice(sorted(self.fetching))
        self.fetching.discard(sha256)
        self.do(
            e.BundleFailed(
                now=self.world.now, sha256=sha256, problem="away", jitter=self.rng.random()
            )
        )

    def task_ends(self) -> None:
        task_id = self.rng.choice(sorted(self.processes))
        stopping = self.world.state.tasks[task_id].phase == "stopping"
        if task_id in self.paused and not stopping:
            return
        elapsed = self.processes.pop(task_id)
        self.paused.discard(task_id)
        outcomes = ["cancelled", "success"] if stopping else ["success"] * 6 + ["failed", "lost"]
        outcome = self.rng.choice(outcomes)
        result = {"valid": 1, "configs_done": 1} if outcome == "success" else None
        self.do(
            e.TaskEnded(
                now=self.world.now, jitter=self.rng.random(),
                finished=TaskFinished(
                    task_id=task_id, outcome=outcome,  # type: ignore[arg-type]
                    elapsed_seconds=elapsed, cpu_user_seconds=elapsed, result=result,
                ),
            )
        )  # fmt: skip

    def task_progresses(self) -> None:
        task_id = self.rng.choice(sorted(self.processes))
        self.do(e.TaskProgressed(now=self.world.now, task_id=task_id, fraction=self.rng.random()))

    def person(self) -> None:
        now = self.world.now
        self.do(
            self.rng.choice(
                [
                    e.PauseRequested(now=now, for_seconds=self.rng.choice([None, 50.0, 500.0])),
                    e.ResumeRequested(now=now),
                    e.ResumeRequested(now=now),
                    e.ResumeRequested(now=now),
                    e.PauseRequested(now=now, gpu=self.rng.randint(0, 2), for_seconds=300.0),
                    e.ResumeRequested(now=now, gpu=self.rng.randint(0, 2)),
                    self._drain(),
                    e.SyncRequested(now=now),
                    e.ConfigChanged(now=now, limits=Limits(cpu_share=self.rng.choice([0.5, 1]))),
                    e.ConfigChanged(now=now, limits=self._limits()),
                    e.ConfigChanged(now=now, limits=Limits()),
                    e.AbortRequested(now=now, task_id=self.rng.randint(1, self._next_id)),
                ]
            )
        )

    def _drain(self) -> e.DrainRequested:
        return e.DrainRequested(
            now=self.world.now,
            reason="moving",
            then=self.rng.choice(["stay", "exit", "pause"]),  # type: ignore[arg-type]
            deadline_seconds=self.rng.choice([None, 30.0, 600.0]),
        )

    def _limits(self) -> Limits:
        minute = int(self.world.state.local // 60) % 1440
        hours = [(day * 1440 + minute, day * 1440 + minute + 7) for day in range(7)]
        return self.rng.choice(
            [
                Limits(memory_share=0.5),
                Limits(schedule=hours),
                Limits(temperature_max=80.0),
                Limits(exclusive=["chess"]),
                Limits(memory_keep_free=4e9, disk_keep_free=1e9),
                Limits(gpu_tasks={"": 1}),
                Limits(gpus_excluded=["1"]),
                Limits(other_load_share=0.5, while_in_use=False),
            ]
        )

    def load(self) -> None:
        rng = self.rng
        self.do(
            e.LoadMeasured(
                now=self.world.now,
                load=Load(
                    on_battery=rng.random() < 0.1,
                    in_use=rng.random() < 0.2,
                    other_cores=rng.choice([0.0, 0.0, 3.0]),
                    temperature=rng.choice([None, 60.0, 78.0, 90.0]),
                    exclusive=rng.choice(["", "", "chess"]),
                    memory_available_bytes=rng.choice([None, 60 << 30, 5_000_000_000, 1_000_000]),
                    disk_free_bytes=rng.choice([None, 50_000_000_000, 900_000_000]),
                ),
            )
        )

    def host_changes(self) -> None:
        """A GPU comes, goes or gets another number; the host sleeps."""
        host, now = self.host, self.world.now
        gpus = self.rng.choice([host.gpus, host.gpus, host.gpus[::-1], host.gpus[:1], []])
        self.do(e.FactsProbed(now=now, facts=msgspec.structs.replace(host, gpus=gpus)))
        slept = self.rng.choice([0.0, 0.0, 3600.0])
        wall = self.world.state.wall + slept
        self.do(e.ClockChanged(now=now, wall=wall, utc_offset_seconds=self.rng.choice([0, 3600])))

    def crash(self) -> None:
        """kill -9, and a new start on what the journal holds."""
        commands, log = self.world.commands, self.world.log
        state = self.world.state
        self.starts += 1
        self.processes.clear()
        self.paused.clear()
        self.fetching.clear()
        self.sent = None
        now = self.world.now
        self.world = World(
            self.host,
            wall=state.wall,
            instance=f"{self.starts:016d}",
            tasks=sorted(self.journal_tasks.values(), key=lambda r: r.order),
            reports=[
                e.WaitingReport(task_id=i, outcome=r.outcome, size_bytes=30)
                for i, r in sorted(self.journal_reports.items())
            ],
            unanswered=self.unanswered,
            pause=state.pause,
            gpu_pauses=state.gpu_pauses,
            drain=state.drain,
        )
        self.world.log = log + self.world.log
        self.obey(self.world.commands)
        self.world.commands = commands + self.world.commands
        self.world.now = max(self.world.now, now)

    def settle(self) -> None:
        """Let everything end: the server answers, and has no more work."""
        if self.world.state.exited:
            self.crash()
        self.do(e.FactsProbed(now=self.world.now, facts=self.host))
        self.do(e.ResumeRequested(now=self.world.now))
        self.do(e.LoadMeasured(now=self.world.now, load=Load()))
        self.do(e.ConfigChanged(now=self.world.now, limits=Limits()))
        self._grants = lambda plan: []  # type: ignore[method-assign]
        for _ in range(2000):
            if not self.world.state.tasks and self.sent is None and self.unanswered is None:
                return
            if self.sent is not None:
                self.server_answers()
            elif self.fetching:
                self.bundle_comes()
            elif self.processes:
                self.task_ends()
            else:
                self.time_passes()
        raise AssertionError(f"never settles: {self.world.state.tasks}")
