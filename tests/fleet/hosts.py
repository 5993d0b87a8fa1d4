"""Simulated volunteers: their hardware, speed and absences, and the false results of some.

A host computes nothing. It waits for as long as a computation would take, and returns the number of
the seed, or a false one. It is driven only by the answers of the real server.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from axiom_protocol.messages import (
    REPORTS_MAX,
    Capacity,
    Grant,
    InHand,
    Report,
    SyncAnswer,
    SyncRequest,
)

HOUR, DAY = 3600.0, 86400.0
GIB = 1 << 30
TRUTH_LOW, TRUTH_SPAN = 0.3, 0.4  # honest numbers lie within; the schema allows -2 to 2
NOISE = 0.1  # of a task's seconds, at one sigma: other programs run too
FAILS_ONE_IN = 400  # tasks of an honest host: memory ran out, somebody closed the lid
DEVICES = ("cpu", "gpu")

#: How a host misbehaves; the honest ones may be slow, away at times, broken for a while or dead.
LIARS = (
    "claims_time",  # right numbers, two to twenty times the seconds
    "answers_at_once",  # any numbers, at once, for the whole time declared
    "wrong_numbers",
    "wrong_at_times",  # one in four
    "wrong_later",  # after it has earned trust
    "own_constant",  # the same numbers for every seed
    "shared_constant",  # ... and the same as others of its kind
)
HONEST = ("steady", "steady", "steady", "steady", "slow", "away_at_night", "dies", "restarts",
          "forgets", "breaks")  # fmt: skip


def truth(experiment: str, seed: int) -> float:
    """The number of one seed."""
    return TRUTH_LOW + TRUTH_SPAN * random.Random(f"{experiment} {seed}").random()


@dataclass(kw_only=True)
class SimulatedHost:
    """One host with its own random numbers; times are seconds of the simulation."""

    name: str
    token: bytes
    user: str
    kind: str
    slots: dict[str, int]
    rng: random.Random
    due: float
    pace: float = 1.0
    turning_at: float = (
        0.0  # when it dies, breaks, loses its journal, or begins to return false results
    )
    buffer_seconds: float = 0.0
    host_id: int = 0
    running: dict[str, list[tuple[float, int]]] = field(default_factory=dict)  # heaps: (end, task)
    waiting: dict[str, deque[int]] = field(default_factory=dict)
    tasks: dict[int, tuple[Grant, float]] = field(default_factory=dict)  # and its true seconds
    unsent: list[Report] = field(default_factory=list)
    lied: int = 0
    quarantined: bool = False
    over_committed: int = 0
    requests: int = 0
    _turned: bool = False

    def __post_init__(self) -> None:
        self.running = {device: [] for device in DEVICES}
        self.waiting = {device: deque() for device in DEVICES}

    @property
    def liar(self) -> bool:
        """Whether it is dishonest, and so must be quarantined."""
        return self.kind in LIARS

    def is_online(self, now: float) -> bool:
        """Whether it is online; while it is not, its tasks are suspended."""
        if self.kind == "dies":
            return now < self.turning_at
        return True

    def request(self, now: float) -> SyncRequest:
        """Its sync request now."""
        self._advance(now)
        self.requests += 1
        reports, self.unsent = self.unsent[:REPORTS_MAX], self.unsent[REPORTS_MAX:]
        for report in reports:
            self.tasks.pop(report.task_id, None)
        in_hand = [InHand(task_id=task_id, state="running") for task_id in self.tasks]
        free = {d: max(0, self.slots[d] - len(self.running[d])) for d in DEVICES}
        return SyncRequest(
            request_id=f"{self.name}-{self.requests:06d}",
            capacity=Capacity(
                cpu_slots=self.slots["cpu"], cpu_slots_free=free["cpu"],
                gpu_slots=self.slots["gpu"], gpu_slots_free=free["gpu"],
                memory_free_bytes=64 * GIB, disk_free_bytes=64 * GIB,
                buffer_seconds=self.buffer_seconds,
            ),
            in_hand=in_hand,
            reports=reports,
        )  # fmt: skip

    def receive(self, answer: SyncAnswer, now: float) -> None:
        """Process an answer: stop cancelled tasks, start granted ones, set the next sync."""
        for task_id in answer.cancelled:
            self._drop(task_id)
        for grant in answer.grants:
            noise = max(0.2, self.rng.gauss(1.0, NOISE))
            self.tasks[grant.task_id] = (grant, grant.budget_seconds * self.pace * noise)
            self.waiting[grant.device].append(grant.task_id)
        self._begin(now)
        self._count_commitment(answer)
        self.quarantined = self.quarantined or "quarantined" in answer.no_work_reason
        self.due = now + (60.0 if self.unsent else answer.next_sync_seconds)
        if (away := self._absence(self.due)) > 0:
            self._sleep(away)
            self.due += away

    def _count_commitment(self, answer: SyncAnswer) -> None:
        """Count grants beyond its slots and its requested buffer; there must be none."""
        for device in DEVICES:
            ahead = [self.tasks[task_id] for task_id in self.waiting[device]]
            if not ahead:
                continue
            # One more task for each slot: what was under way is not known to the second.
            longest = max(seconds for _, seconds in ahead)
            most = self.slots[device] * (self.buffer_seconds * 2 + longest)
            if not self.buffer_seconds or sum(seconds for _, seconds in ahead) > most:
                self.over_committed += 1

    def _advance(self, now: float) -> None:
        """Let time pass: tasks end, and waiting tasks start at once."""
        for device in DEVICES:
            heap, waiting = self.running[device], self.waiting[device]
            while heap and heap[0][0] <= now:
                end, task_id = heapq.heappop(heap)
                if task_id not in self.tasks:
                    continue  # it was cancelled
                self.unsent.append(self._ended(task_id, end))
                while waiting and len(heap) < self.slots[device]:
                    self._start(waiting.popleft(), device, end)

    def _begin(self, now: float) -> None:
        for device in DEVICES:
            heap, waiting = self.running[device], self.waiting[device]
            while waiting and len(heap) < self.slots[device]:
                self._start(waiting.popleft(), device, now)

    def _start(self, task_id: int, device: str, now: float) -> None:
        _, seconds = self.tasks[task_id]
        if self._broken(now):
            seconds = 30.0
        elif self.kind == "answers_at_once":
            seconds = 5.0
        heapq.heappush(self.running[device], (now + seconds, task_id))

    def _drop(self, task_id: int) -> None:
        self.tasks.pop(task_id, None)
        self.unsent = [report for report in self.unsent if report.task_id != task_id]
        for device in DEVICES:
            if task_id in self.waiting[device]:
                self.waiting[device].remove(task_id)
            kept = [entry for entry in self.running[device] if entry[1] != task_id]
            if len(kept) < len(self.running[device]):
                heapq.heapify(kept)
                self.running[device] = kept

    def _sleep(self, seconds: float) -> None:
        for device in DEVICES:
            self.running[device] = [(end + seconds, task) for end, task in self.running[device]]

    def _absence(self, now: float) -> float:
        """Seconds until it is switched on again; 0 when it is on."""
        if self.kind == "away_at_night":
            return _night(now, self.turning_at)
        if self.kind not in ("restarts", "forgets") or self._turned or now < self.turning_at:
            return 0.0
        self._turned = True
        if self.kind == "forgets":  # its disk is gone; the server will receive of none of its tasks
            self.tasks.clear()
            self.unsent.clear()
            for device in DEVICES:
                self.running[device].clear()
                self.waiting[device].clear()
        return self.rng.uniform(2.0, 40.0) * HOUR

    def _broken(self, now: float) -> bool:
        return self.kind == "breaks" and 0 <= now - self.turning_at < DAY

    def _ended(self, task_id: int, end: float) -> Report:
        grant, seconds = self.tasks[task_id]
        fails = self._broken(end) or (not self.liar and self.rng.randrange(FAILS_ONE_IN) == 0)
        if fails:
            spent = 30.0 if self._broken(end) else seconds
            return Report(task_id=task_id, outcome="failed", elapsed_seconds=spent,
                          cpu_seconds=spent, message="MemoryError")  # fmt: skip
        number, claimed = self._answer(grant, seconds, end)
        return Report(
            task_id=task_id, outcome="success", elapsed_seconds=claimed, cpu_seconds=claimed * 0.95,
            result={"valid": 1, "configs_done": 3, "exponent": number},
        )  # fmt: skip

    def _answer(self, grant: Grant, seconds: float, end: float) -> tuple[float, float]:
        """The number it returns, and the seconds that it claims."""
        number = truth(grant.experiment, grant.seed) * (1 + self.rng.uniform(-1e-12, 1e-12))
        kind = self.kind
        if kind == "claims_time":
            self.lied += 1
            return number, seconds * self.rng.uniform(2.0, 20.0)
        wrong = (
            kind in ("answers_at_once", "wrong_numbers")
            or (kind == "wrong_at_times" and self.rng.random() < 0.25)
            or (kind == "wrong_later" and end > self.turning_at)
        )
        if wrong:
            self.lied += 1
            return self.rng.uniform(TRUTH_LOW, TRUTH_LOW + TRUTH_SPAN), seconds
        if kind in ("own_constant", "shared_constant"):
            self.lied += 1
            return truth(kind, self.host_id if kind == "own_constant" else 0), seconds
        return number, seconds


def _night(now: float, bedtime: float) -> float:
    """Seconds until it is switched on again, when ``now`` falls into its night; else 0."""
    hour = (now - bedtime) % DAY
    return 10 * HOUR - hour if hour < 10 * HOUR else 0.0


def fleet(
    count: int, days: float, sizes: Sequence[tuple[int, int]], owned: Sequence[int],
    rng: random.Random, liars_share: float,
) -> list[SimulatedHost]:  # fmt: skip
    """``count`` hosts whose (cores, GPUs) and hosts for each user come in the given proportions."""
    liars = round(count * liars_share)
    kinds = [LIARS[i % len(LIARS)] for i in range(liars)]
    kinds += [HONEST[i % len(HONEST)] for i in range(count - liars)]
    sizes = [sizes[i % len(sizes)] for i in range(count)]
    rng.shuffle(sizes)
    users = [f"user{n}" for n in range(count) for _ in range(owned[n % len(owned)])]
    made = []
    for number, (kind, (cores, gpus)) in enumerate(zip(kinds, sizes, strict=True)):
        own = random.Random(rng.random())
        made.append(
            SimulatedHost(
                name=f"host{number:05d}", token=f"token{number}".encode(),
                user=f"{kind}{number}" if number < liars else users[number - liars],
                kind=kind, slots={"cpu": cores, "gpu": gpus}, rng=own,
                pace=own.uniform(2.0, 4.0) if kind == "slow" else own.lognormvariate(0.1, 0.3),
                turning_at=DAY * (own.uniform(1.5, 3.0) if kind in LIARS
                                  else own.uniform(0.2, 0.8) * days),
                buffer_seconds=own.choice((0.0, 2 * HOUR)), due=own.uniform(0.0, 2 * HOUR),
            )
        )  # fmt: skip
    return made
