"""Simulated attackers of a project, of several kinds; attackers of one kind share their knowledge.

Attackers that return false results return the same one for a seed, so that their results agree when
they check each other.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from axiom_protocol.messages import Grant, InHand, Report, SyncRequest
from tests.fleet.hosts import DAY, SimulatedHost, truth

LIE_LOW, LIE_SPAN = 0.75, 0.15  # the schema takes it, and no honest number comes near
CLAIMED_CORES = 65_536
CHEAP_BELOW = 0.4  # of numbers between 0.3 and 0.7: a quarter
POISON_SHARE = 0.5  # of the results of one that has been trusted long enough
POISON_DAY = 4.0  # when it begins: after it may judge others

KINDS = ("sybil", "colluder", "hoarder", "refuser", "poisoner", "cherry_picker")
LIARS = frozenset({"sybil", "colluder", "refuser", "poisoner"})


def false_value(experiment: str, seed: int) -> float:
    """The false number that all attackers return for a seed."""
    return LIE_LOW + LIE_SPAN * random.Random(f"lie {experiment} {seed}").random()


def is_lie(number: float) -> bool:
    """Whether a number is one of the attackers' false numbers."""
    return number >= LIE_LOW


@dataclass(kw_only=True)
class Attacker(SimulatedHost):
    """One host of an attacker.

    sybil          claims 65,536 cores, reports at once, false results; one of many accounts
    colluder       looks like a volunteer with four cores, false results
    hoarder        claims 65,536 cores, takes all work that it gets, and returns nothing
    refuser        false results; gives back every task whose seed another refuser had before, so
                   that it never confirms or refutes anybody by chance
    poisoner       honest until it is trusted; then half of its results are false
    cherry_picker  returns only true numbers that suit it, and gives back all other tasks
    """

    shared_seeds: set[tuple[str, int]]

    def request(self, now: float) -> SyncRequest:
        """Its sync request now."""
        asked = super().request(now)
        if self.kind != "hoarder":
            return asked
        held = [InHand(task_id=task_id, state="running") for task_id in self.tasks]
        return SyncRequest(request_id=asked.request_id, capacity=asked.capacity, in_hand=held)

    def _start(self, task_id: int, device: str, now: float) -> None:
        grant, seconds = self.tasks[task_id]
        if self.kind == "hoarder":
            seconds = 1e9
        elif self.kind in ("sybil", "refuser") or self._gives_back(grant):
            seconds = 5.0
        self.tasks[task_id] = grant, seconds
        super()._start(task_id, device, now)

    def _gives_back(self, grant: Grant) -> bool:
        if self.kind == "cherry_picker":
            return truth(grant.experiment, grant.seed) > CHEAP_BELOW
        return self.kind == "refuser" and (grant.experiment, grant.seed) in self.shared_seeds

    def _ended(self, task_id: int, end: float) -> Report:
        grant, seconds = self.tasks[task_id]
        if self._gives_back(grant):
            return Report(task_id=task_id, outcome="cancelled", elapsed_seconds=0, cpu_seconds=0)
        self.shared_seeds.add((grant.experiment, grant.seed))
        false = self.kind in LIARS - {"poisoner"} or self._poisons(grant, end)
        self.lied += false
        number = (false_value if false else truth)(grant.experiment, grant.seed)
        claimed = grant.budget_seconds if self.kind == "sybil" else seconds
        return Report(
            task_id=task_id, outcome="success", elapsed_seconds=claimed, cpu_seconds=claimed,
            result={"valid": 1, "configs_done": 3, "exponent": number},
        )  # fmt: skip

    def _poisons(self, grant: Grant, end: float) -> bool:
        if self.kind != "poisoner" or end < POISON_DAY * DAY:
            return False
        return random.Random(f"poison {grant.experiment} {grant.seed}").random() < POISON_SHARE


def attackers(kind: str, count: int, rng: random.Random) -> list[SimulatedHost]:
    """``count`` accounts of a kind, each with one host."""
    cores = CLAIMED_CORES if kind in ("sybil", "hoarder") else 4
    seeds: set[tuple[str, int]] = set()
    made: list[SimulatedHost] = []
    for number in range(count):
        own = random.Random(rng.random())
        made.append(
            Attacker(
                name=f"{kind}{number:05d}", token=f"{kind}{number}".encode(),
                user=f"{kind}{number}", kind=kind, slots={"cpu": cores, "gpu": 0}, rng=own,
                due=own.uniform(0.0, 3600.0), buffer_seconds=DAY if kind == "hoarder" else 0.0,
                shared_seeds=seeds,
            )
        )  # fmt: skip
    return made
