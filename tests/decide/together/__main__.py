"""Run many steps of agent and server decisions together: ``python -m tests.decide.together STEPS``.

A random generator draws the steps, which is fast; it also counts them. A sequence of calls that
breaks an invariant is shortened, call by call, and printed. A seed may follow STEPS.
"""

from __future__ import annotations

import argparse
import random
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from tests.decide.together.machine import HOSTS, KEPT_MAX, SHAS, Together

STEPS_EACH = 100  # in one life of a project
Call = tuple[str, dict[str, Any]]

_JITTER: Callable[[random.Random], float] = random.Random.random
_DRAWS: dict[str, Callable[[random.Random], Any]] = {
    "which": lambda rng: rng.randrange(KEPT_MAX),
    "again": lambda rng: rng.random() < 0.3,
    "answered": lambda rng: rng.random() < 0.6,
    "dies": lambda rng: rng.choice([None, None, None, None, 0, 1, 2, 3, 5]),
    "host": lambda rng: rng.choice(HOSTS),
    "jitter": _JITTER,
    "rounds": lambda rng: rng.randint(1, 3),
    "seconds": lambda rng: rng.choice([0.3, 2.0, 30.0, 400.0]),
    "there": lambda rng: rng.random() < 0.7,
    "outcome": lambda rng: rng.choice(["success", "success", "success", "failed", "lost"]),
    "version": lambda rng: rng.choice(sorted(SHAS)),
    "count": lambda rng: rng.randint(1, 4),
    "state": lambda rng: rng.choice(["quarantined", "active", "active"]),
    "stop": lambda rng: rng.random() < 0.4,
}
#: The possible calls, with their relative frequency and their arguments.
_CALLS: dict[str, tuple[int, tuple[str, ...]]] = {
    "request_arrives": (6, ("which", "again", "answered")),
    "late_request_arrives": (2, ("which",)),
    "all_goes_well": (2, ("host", "rounds")),
    "request_is_lost": (1, ("which",)),
    "answer_arrives": (6, ("which", "again", "dies")),
    "host_waits_in_vain": (3, ("host", "jitter")),
    "server_is_away": (1, ()),
    "time_passes": (4, ("seconds",)),
    "host_is_killed": (1, ("host",)),
    "bundle_comes_or_not": (3, ("host", "there", "jitter")),
    "task_ends": (6, ("host", "which", "outcome", "dies")),
    "deploy": (2, ("version", "count")),
    "quarantine_or_release": (1, ("host", "state")),
    "stop_or_resume": (1, ("version", "stop")),
    "review": (1, ()),
}
_NEEDS = {
    "request_arrives": "requests", "request_is_lost": "requests",
    "late_request_arrives": "late", "answer_arrives": "answers",
}  # fmt: skip


def main(steps: int, seed: int) -> int:
    """Run the steps. Returns 0, or 1 after printing the shortest failing sequence found."""
    rng = random.Random(seed)
    weights = [weight for weight, _ in _CALLS.values()]
    done = 0
    while done < steps:
        names = rng.choices(list(_CALLS), weights, k=STEPS_EACH)
        story = [(name, {word: _DRAWS[word](rng) for word in _CALLS[name][1]}) for name in names]
        made, problem = play(story)
        done += made
        if problem:
            _tell(_shortened(story, problem), problem)
            return 1
    print(f"{done:,} steps of seed {seed}: nothing is lost and nothing is paid twice")
    return 0


def play(story: Sequence[Call]) -> tuple[int, str]:
    """Run a sequence and let everything end; returns the number of steps done, and the error."""
    machine, made = Together(), 0
    try:
        machine.begin()
        for name, words in story:
            if name in _NEEDS and not getattr(machine, _NEEDS[name]):
                continue
            getattr(machine, name)(**words)
            made += 1
            machine.nothing_is_leased_twice()
            machine.what_waits_is_not_leased()
            machine.totals_are_the_ledger()
        machine.teardown()
    except Exception as error:  # noqa: BLE001  whatever breaks is a finding
        return made, f"{type(error).__name__}: {error}\n{traceback.format_exc(limit=-3)}"
    return made, ""


def _shortened(story: list[Call], problem: str) -> list[Call]:
    """Leave out every call that is not needed for the same error."""
    kind = problem.split(" ", 2)[:2]
    at = 0
    while at < len(story):
        shorter = story[:at] + story[at + 1 :]
        if play(shorter)[1].split(" ", 2)[:2] == kind:
            story = shorter
        else:
            at += 1
    return story


def _tell(story: Sequence[Call], problem: str) -> None:
    for name, words in story:
        print(f"{name}({', '.join(f'{key}={value!r}' for key, value in words.items())})")
    print(problem)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="tests.decide.together", description=__doc__)
    parser.add_argument("steps", type=int, nargs="?", default=100_000)
    parser.add_argument("seed", type=int, nargs="?", default=1)
    given = parser.parse_args()
    sys.exit(main(given.steps, given.seed))
