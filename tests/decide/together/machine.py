"""Agents and server joined by a network that loses, duplicates, reorders and delays messages."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from axiom_protocol.messages import SyncAnswer, SyncRequest
from tests.decide.together.host import Host, encoded
from tests.decide.together.project import ATTEMPTS_MAX, SHAS, Project

HOSTS = (1, 2, 3)
AWAY_SECONDS = 600.0
SETTLE_ROUNDS = 400
POISONED = 5  # one workunit in so many fails whenever it is run, once the network is whole
FAULTS = ("failed", "lost")  # outcomes in reports that count as an attempt
KEPT_MAX = 6  # messages on the wire; a network forgets the oldest

hosts = st.sampled_from(HOSTS)
versions = st.sampled_from(sorted(SHAS))
jitter = st.floats(0, 1)
crash = st.one_of(st.none(), st.none(), st.integers(0, 6))  # after so many commands
index = st.integers(0, KEPT_MAX - 1)


@dataclass(frozen=True)
class Request:
    """A request on its way to the server. ``life``: the number of starts of its host."""

    host: int
    life: int
    message: SyncRequest

    @property
    def run(self) -> str:
        """The agent's run that made the request; the next run may send it again, unchanged."""
        return self.message.request_id.rpartition("-")[0]


@dataclass(frozen=True)
class Answer:
    """An answer on its way to a host."""

    host: int
    life: int
    message: SyncAnswer


class Together(RuleBasedStateMachine):
    """Three hosts, one project, and everything that can go wrong between them."""

    def __init__(self) -> None:
        super().__init__()
        self.project = Project(holds=self.holds)
        self.hosts = {number: Host(number) for number in HOSTS}
        self.requests: list[Request] = []
        self.late: list[Request] = []
        self.answers: list[Answer] = []
        self.promised: set[int] = set()  # successes that were acknowledged without a refusal
        self.doubtful: set[int] = set()  # hosts that were in quarantine

    def holds(self, host: int, task_id: int) -> bool:
        """Whether a host has a task, or an answer with it that it still waits for."""
        held = self.hosts[host]
        waiting = held.journal.request
        on_the_way = any(
            grant.task_id == task_id
            for answer in self.answers
            if answer.host == host and waiting is not None
            and answer.message.request_id == waiting.request_id
            for grant in answer.message.grants
        )  # fmt: skip
        return held.has(task_id) or on_the_way

    # --- the network ------------------------------------------------------------------------------

    def _collect(self) -> None:
        """Put the requests that hosts have sent on the network."""
        for number, host in self.hosts.items():
            for message in host.sent:
                self.requests.append(Request(number, host.lives, encoded(message)))
            host.sent.clear()
        del self.requests[:-KEPT_MAX]

    @initialize()
    def begin(self) -> None:
        for number, host in self.hosts.items():
            self.project.enrol(number)
            host.start()
        self.project.deploy(1, 12)
        self._collect()

    @precondition(lambda self: self.requests)
    @rule(which=index, again=st.booleans(), answered=st.booleans())
    def request_arrives(self, which: int, again: bool, answered: bool) -> None:
        """Deliver a request. ``again``: a copy comes later; ``answered``: its answer arrives."""
        request = self.requests[which % len(self.requests)]
        self.requests.remove(request)
        if again:
            self.late = [*self.late, request][-KEPT_MAX:]
        self._serve(request, answered=answered)

    def _serve(self, request: Request, *, answered: bool = True) -> None:
        reply = self.project.sync(request.host, request.message)
        good = {r.task_id for r in request.message.reports if r.outcome == "success"}
        self.promised |= {
            a.task_id for a in reply.acknowledged if a.task_id in good and not a.refusal
        }
        # Requests of different runs of an agent have no order that a server could know: one of an
        # earlier run that comes after one of a later run takes back what that one was granted.
        self.requests, self.late = (
            [r for r in wire if r.host != request.host or r.run >= request.run]
            for wire in (self.requests, self.late)
        )
        if answered:
            self.answers.append(Answer(request.host, request.life, reply))
            del self.answers[:-KEPT_MAX]

    @precondition(lambda self: self.late)
    @rule(which=index)
    def late_request_arrives(self, which: int) -> None:
        """Deliver a request again that arrived before, as if a server had been stopped with it."""
        self._serve(self.late[which % len(self.late)], answered=False)

    @rule(host=hosts, rounds=st.integers(1, 3))
    def all_goes_well(self, host: int, rounds: int) -> None:
        """Deliver and answer all requests of one host, and let its tasks succeed."""
        for _ in range(rounds):
            self._go_well(host)
            self._pass(2.0)

    def _go_well(self, host: int) -> None:
        for request in [r for r in self.requests if r.host == host]:
            self.requests.remove(request)
            self._serve(request)
        for answer in [a for a in self.answers if a.host == host]:
            self.answers.remove(answer)
            self._hear(answer)
        self._let_finish(self.hosts[host])
        self._collect()

    @precondition(lambda self: self.requests)
    @rule(which=index)
    def request_is_lost(self, which: int) -> None:
        del self.requests[which % len(self.requests)]

    @precondition(lambda self: self.answers)
    @rule(which=index, again=st.booleans(), dies=crash)
    def answer_arrives(self, which: int, again: bool, dies: int | None) -> None:
        answer = self.answers[which % len(self.answers)]
        if not again:
            self.answers.remove(answer)
        self._hear(answer, dies)
        self._collect()

    def _hear(self, answer: Answer, dies: int | None = None) -> None:
        if answer.life == self.hosts[answer.host].lives:
            self.hosts[answer.host].receive(answer.message, dies)

    @rule(host=hosts, jitter=jitter)
    def host_waits_in_vain(self, host: int, jitter: float) -> None:
        self.hosts[host].lose_answer(jitter)
        self._collect()

    @rule()
    def server_is_away(self) -> None:
        self.project.now += AWAY_SECONDS
        self.requests.clear()
        for host in self.hosts.values():
            host.go_offline(AWAY_SECONDS)
        self._collect()

    # --- hosts ------------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([0.3, 2.0, 30.0, 400.0]))
    def time_passes(self, seconds: float) -> None:
        self._pass(seconds)

    def _pass(self, seconds: float) -> None:
        self.project.now += seconds
        for host in self.hosts.values():
            host.wait(seconds)
        self._collect()

    @rule(host=hosts)
    def host_is_killed(self, host: int) -> None:
        self.hosts[host].start()
        self._collect()

    @rule(host=hosts, there=st.booleans(), jitter=jitter)
    def bundle_comes_or_not(self, host: int, there: bool, jitter: float) -> None:
        for sha256 in sorted(self.hosts[host].fetching)[:1]:
            self.hosts[host].bundle(sha256, there=there, jitter=jitter)
        self._collect()

    @rule(host=hosts, which=index, dies=crash,
          outcome=st.sampled_from(["success", "success", "success", "failed", "lost"]))  # fmt: skip
    def task_ends(self, host: int, which: int, outcome: str, dies: int | None) -> None:
        running = sorted(self.hosts[host].processes)
        if running:
            task_id = running[which % len(running)]
            stopped = task_id in self.hosts[host].stopping and outcome == "failed"
            self.hosts[host].task_ends(task_id, "cancelled" if stopped else outcome, dies)
        self._collect()

    # --- staff ------------------------------------------------------------------------------------

    @rule(version=versions, count=st.integers(1, 4))
    def deploy(self, version: int, count: int) -> None:
        if len(self.project.workunits) < 60:
            self.project.deploy(version, count)

    @rule(host=hosts, state=st.sampled_from(["quarantined", "active", "active"]))
    def quarantine_or_release(self, host: int, state: str) -> None:
        self.project.set_host(host, state)
        self.doubtful |= {host} if state == "quarantined" else set()

    @rule(version=versions, stop=st.booleans())
    def stop_or_resume(self, version: int, stop: bool) -> None:
        if stop:
            self.project.stop_version(version)
        else:
            self.project.resume_version(version)

    @rule()
    def review(self) -> None:
        self.project.review()

    # --- invariants -------------------------------------------------------------------------------

    @invariant()
    def nothing_is_leased_twice(self) -> None:
        leased = [t.row.workunit_id for t in self.project.tasks.values() if t.row.state == "leased"]
        assert len(leased) == len(set(leased))

    @invariant()
    def what_waits_is_not_leased(self) -> None:
        leased = {t.row.workunit_id for t in self.project.tasks.values() if t.row.state == "leased"}
        assert not any(u.waits and u.workunit_id in leased for u in self.project.workunits.values())

    @invariant()
    def totals_are_the_ledger(self) -> None:
        assert sum(self.project.totals.values()) == sum(self.project.ledger.values())

    def teardown(self) -> None:
        """Without faults and quarantines, everything ends and is credited once."""
        if not self.project.hosts:
            return
        for version in SHAS:
            self.project.resume_version(version)
        for number in HOSTS:
            self.project.set_host(number, "active")
        for _ in range(SETTLE_ROUNDS):
            if self._all_ended():
                break
            self._settle_once()
        assert self._all_ended(), "it never ends"
        self.project.review()
        self._check_end()

    def _settle_once(self) -> None:
        self._collect()
        for request in list(self.requests):
            self.requests.remove(request)
            self._serve(request)
        for answer in list(self.answers):
            self.answers.remove(answer)
            self._hear(answer)
        for host in self.hosts.values():
            self._let_finish(host)
        self._collect()
        if not self.requests:
            for host in self.hosts.values():
                host.lose_answer(0.5)
        self._pass(30.0)

    def _let_finish(self, host: Host) -> None:
        for sha256 in sorted(host.fetching):
            host.bundle(sha256, there=True)
        for task_id in sorted(host.processes):
            fails = host.journal.tasks[task_id].grant.seed % POISONED == 0
            ends = "failed" if fails else "success"
            host.task_ends(task_id, "cancelled" if task_id in host.stopping else ends)

    def _all_ended(self) -> bool:
        waits = any(unit.waits for unit in self.project.workunits.values())
        open_ = any(t.row.state == "leased" for t in self.project.tasks.values())
        in_hand = any(host.journal.tasks for host in self.hosts.values())
        return not (waits or open_ or in_hand)

    def _check_end(self) -> None:
        ends: dict[int, list[tuple[str, str]]] = {}
        for task in self.project.tasks.values():
            ends.setdefault(task.row.workunit_id, []).append(task.ended or ("taken back", ""))
        for number in self.project.workunits:
            found = ends[number]
            failures = sum(1 for outcome, refusal in found if outcome in FAULTS or refusal)
            assert ("success", "") in found or failures >= ATTEMPTS_MAX, f"{number} is lost"
        for task_id in self.promised:
            assert task_id in self.project.ledger, f"task {task_id} was promised and is not paid"
