"""A simulated host around the pure agent, with journal, processes and network in memory.

Commands are carried out one by one, as the agent's loop does: first the journal's, all or none of
them, then the others. With ``crash_at`` the host crashes in between.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import msgspec

from axiom_client.decide import commands as c
from axiom_client.decide import events as e
from axiom_client.decide.agent import step
from axiom_client.decide.model import AgentState, Limits, SyncPlan, TaskRecord
from axiom_client.decide.task_run import TaskFinished
from axiom_protocol.messages import Report, SyncAnswer, SyncRequest
from tests.support.world import SHA, WALL, facts, manifest

CORES = 2
VERSIONS = {SHA: "1.0.1", "b" * 64: "1.0.2"}  # of the one experiment, by their bundles
SYNCS_MAX = 45  # within ten seconds: they are a quarter of a second apart
ALONE_SYNCS_MAX = (
    16  # unanswered syncs within ten minutes; each waits twice as long as the one before
)
BUNDLE_FETCHES_MAX = 12  # of one bundle that cannot be had, in one life


@dataclass
class Journal:
    """What survives a crash."""

    tasks: dict[int, TaskRecord] = field(default_factory=dict)
    reports: dict[int, Report] = field(default_factory=dict)
    request: SyncPlan | None = None

    def write(self, commands: list[c.Command]) -> None:
        """All of them."""
        for command in commands:
            match command:
                case c.SaveTask(record=record):
                    self.tasks[record.grant.task_id] = record
                case c.SaveReport(report=report):
                    self.reports[report.task_id] = report
                case c.ForgetTask(task_id=task_id):
                    del self.tasks[task_id], self.reports[task_id]
                case c.SaveRequest(plan=plan):
                    self.request = plan


@dataclass
class Host:
    """One host. ``sent``: requests that it has sent and that were not delivered yet."""

    number: int
    now: float = 1000.0
    state: AgentState = field(default_factory=AgentState)
    journal: Journal = field(default_factory=Journal)
    processes: set[int] = field(default_factory=set)
    stopping: set[int] = field(default_factory=set)
    fetching: set[str] = field(default_factory=set)
    sent: list[SyncRequest] = field(default_factory=list)
    lives: int = 0
    _syncs: list[float] = field(default_factory=list)
    _fetches: dict[str, int] = field(default_factory=dict)

    def start(self, crash_at: int | None = None) -> None:
        """Start the agent from its journal."""
        self.lives += 1
        self.processes, self.stopping, self.fetching = set(), set(), set()
        self._fetches = {}
        held = copy.deepcopy(self.journal)
        self.do(
            e.AgentStarted(
                now=self.now, wall=WALL + self.now, instance=f"{self.number:08d}{self.lives:08d}",
                limits=Limits(buffer_seconds=60.0),
                tasks=sorted(held.tasks.values(), key=lambda record: record.order),
                reports=[
                    e.WaitingReport(task_id=i, outcome=r.outcome, size_bytes=30)
                    for i, r in sorted(held.reports.items())
                ],
                unanswered=held.request,
            ),
            crash_at,
        )  # fmt: skip
        self.do(e.FactsProbed(now=self.now, facts=facts(cores=CORES)), crash_at)

    def do(self, event: e.Event, crash_at: int | None = None) -> None:
        """One event, with its commands. ``crash_at``: it crashes after so many commands."""
        state, commands = step(self.state, event)
        durable = [command for command in commands if isinstance(command, c.Persistent)]
        first = next(
            (i for i, one in enumerate(commands) if not isinstance(one, c.Persistent)),
            len(commands),
        )
        assert durable == commands[:first], "something is done before it is written down"
        if crash_at == 0:
            return self.start()
        self.journal.write(durable)
        self.state = state
        for done, command in enumerate(commands[first:], 1):
            self._obey(command)
            if done == crash_at:
                return self.start()
        return None

    def _obey(self, command: c.Command) -> None:
        match command:
            case c.StartTask(task_id=task_id):
                assert task_id not in self.processes, "one task, two processes"
                assert task_id in self.journal.tasks, "a task runs that is not written down"
                self.processes.add(task_id)
            case c.StopTask(task_id=task_id):
                self.stopping.add(task_id)
            case c.FetchBundle(sha256=sha256):
                self.fetching.add(sha256)
                self._fetches[sha256] = self._fetches.get(sha256, 0) + 1
                assert self._fetches[sha256] <= BUNDLE_FETCHES_MAX, "fetched without end"
            case c.Sync(plan=plan):
                assert self.journal.request == plan, "a request goes out that is not written down"
                self._count_sync()
                self.sent.append(self._request(plan))

    def _request(self, plan: SyncPlan) -> SyncRequest:
        return SyncRequest(
            request_id=plan.request_id, host=plan.host, capacity=plan.capacity,
            in_hand=plan.in_hand, draining=plan.draining,
            reports=[self.journal.reports[i] for i in plan.report_ids if i in self.journal.reports],
        )  # fmt: skip

    def _count_sync(self) -> None:
        self._syncs = [at for at in self._syncs if at > self.now - 10] + [self.now]
        assert len(self._syncs) <= SYNCS_MAX, "a storm of requests"

    # --- events -----------------------------------------------------------------------------------

    def wait(self, seconds: float) -> None:
        """Advance the clock; every timer due by then fires."""
        until = self.now + seconds
        while self.state.wake_at <= until:
            self.now = max(self.now, self.state.wake_at)
            self.do(e.TimerFired(now=self.now))
        self.now = until

    def receive(self, answer: SyncAnswer, crash_at: int | None = None) -> None:
        """An answer arrives; afterwards its cancelled tasks have ended or are ending."""
        plan = self.state.sync.in_flight
        if plan is None or plan.request_id != answer.request_id:
            return  # to a request that it no longer waits for: its connection is closed
        lives = self.lives
        self.do(e.SyncAnswered(now=self.now, answer=answer), crash_at)
        if self.lives == lives:
            self._check_cancelled(answer)

    def _check_cancelled(self, answer: SyncAnswer) -> None:
        for task_id in answer.cancelled:
            task = self.state.tasks.get(task_id)
            ending = task is None or task.phase in ("ended", "stopping")
            assert ending, f"task {task_id} was cancelled and is {task.phase if task else ''}"

    def lose_answer(self, jitter: float) -> None:
        """The request in flight fails."""
        if self.state.sync.in_flight is None:
            return
        self.do(e.SyncFailed(now=self.now, problem="away", jitter=jitter))

    def go_offline(self, seconds: float) -> None:
        """No server answers for this time: every request fails at once."""
        until, failures = self.now + seconds, 0
        while self.now < until:
            if self.state.sync.in_flight is None:
                self.wait(max(0.01, min(self.state.wake_at, until) - self.now))
                continue
            self.sent.clear()
            self.lose_answer(0.5)
            failures += 1
            assert failures <= ALONE_SYNCS_MAX, "too many syncs while the server does not answer"

    def bundle(self, sha256: str, *, there: bool, jitter: float = 0.5) -> None:
        """A bundle arrives, or fails to download."""
        self.fetching.discard(sha256)
        if there:
            self.do(
                e.BundleFetched(
                    now=self.now,
                    sha256=sha256,
                    path="/b.py",
                    manifest=manifest(version=VERSIONS[sha256]),
                )
            )
        else:
            self.do(e.BundleFailed(now=self.now, sha256=sha256, problem="away", jitter=jitter))

    def task_ends(self, task_id: int, outcome: str, crash_at: int | None = None) -> None:
        """A task's process ends."""
        self.processes.discard(task_id)
        self.stopping.discard(task_id)
        good = {"valid": 1, "configs_done": 1} if outcome == "success" else None
        finished = TaskFinished(
            task_id=task_id, outcome=outcome,  # type: ignore[arg-type]
            elapsed_seconds=1.0, cpu_user_seconds=1.0, result=good,
        )  # fmt: skip
        self.do(e.TaskEnded(now=self.now, finished=finished), crash_at)

    def has(self, task_id: int) -> bool:
        """Whether it will still report this task."""
        return task_id in self.journal.tasks


def encoded(message: SyncRequest) -> SyncRequest:
    """As it is after the wire."""
    return msgspec.json.decode(msgspec.json.encode(message), type=SyncRequest)
