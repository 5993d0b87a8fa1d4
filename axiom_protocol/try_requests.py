"""Runs that ``axiom-server publish`` asks ``axiom-client try-many`` to make, as lines of JSON.

The requests come as one list on standard input. Each run's record is printed when it ends, as
``axiom-client try --json`` prints it, with the position of its request in that list.
"""

from __future__ import annotations

from msgspec import Raw, Struct


class TryRequest(Struct, frozen=True, kw_only=True):
    """One run.

    device       "cpu", "gpu" or "gpu:1"
    other_seeds  computed in the same process by ``run_cohort``
    fresh        in a new interpreter; else in one that has loaded the libraries for several runs
    after        position of a request whose run must have started a second earlier: two runs in the
                 same second could agree although their results depend on the clock
    """

    path: str
    seed: int
    budget_seconds: float
    device: str = "cpu"
    other_seeds: tuple[int, ...] = ()
    fresh: bool = False
    after: int | None = None


class TryAnswer(Struct, frozen=True, kw_only=True):
    """How the run of the request at position ``number`` ended."""

    number: int
    run: Raw
