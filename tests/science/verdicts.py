"""How often verdicts are false when the data are looked at after every seed, by old and new rule.

    python -m tests.science.verdicts                 the tables of docs/findings.md (minutes)
    python -m tests.science.verdicts --paths 200     coarser

Each row draws many projects ("paths") whose truth is known, looks after each seed from 5 to 200,
or at ten reviews, and counts the paths on which any look gives a false verdict. The new rule is the
server's: ``evidence.weigh`` and ``findings.decide``. Exits with 1 if a row of the new rule is above
5 %.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np

from axiom_protocol.manifest import Criterion, Field, Finding, Manifest
from axiom_protocol.verdicts.evidence import weigh
from axiom_protocol.verdicts.findings import Decision, decide
from axiom_protocol.verdicts.fixed_rule import fixed_verdict

FIRST, LAST = 5, 200
LOOKS = range(FIRST, LAST + 1)
REVIEWS = range(20, LAST + 1, 20)
FINDINGS = 47  # of the library's seven experiments
PATHS = 1000
LIMIT = 0.05
SEED = 20_260_302

Draw = Callable[[np.random.Generator, int], np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Row:
    """The distribution of a seed's number, the claim about it, and which verdicts are false.

    bounds    of the field, as declared
    lost      probability that a seed which fails the claim is never reported
    """

    name: str
    draw: Draw
    above: float | None = None
    below: float | None = None
    false: frozenset[str]
    bounds: tuple[float | None, float | None] = (None, None)
    min_share: float = 0.9
    lost: float = 0.0

    @cache  # noqa: B019 - rows are constants of this module
    def claim(self) -> tuple[Manifest, Finding]:
        """The declaration as an experiment's metadata has it."""
        finding = Finding(
            name="claim", claim="It is so.", field="value", min_share=self.min_share,
            criterion=Criterion(above=self.above, below=self.below),
        )  # fmt: skip
        fields = {"value": Field(min=self.bounds[0], max=self.bounds[1])}
        fields |= {name: Field() for name in ("valid", "configs_done")}
        return Manifest(
            name="known", version="1.0.0", title="Known", question="Is it?", expected_seconds=1.0,
            result=fields, findings=[finding],
        ), finding  # fmt: skip


def catastrophes(share: float, depth: float) -> Draw:
    """Nearly always close to 1, and lower by ``depth`` in a share of the seeds."""

    def draw(rng: np.random.Generator, n: int) -> np.ndarray:
        return 1 + 0.1 * rng.standard_normal(n) - depth * (rng.random(n) < share)

    return draw


def normal(mean: float) -> Draw:
    return lambda rng, n: rng.normal(mean, 1.0, n)


def lognormal(sigma: float) -> Draw:
    """With a mean of 1."""
    return lambda rng, n: rng.lognormal(-(sigma**2) / 2, sigma, n)


def meeting(share: float, miss: float = 0.1) -> Draw:
    """1 in a share of the seeds, ``-miss`` in the others: the mean is far above 0."""
    return lambda rng, n: np.where(rng.random(n) < share, 1.0, -miss) + 0.01 * rng.random(n)


def beta(a: float, b: float) -> Draw:
    return lambda rng, n: rng.beta(a, b, n)


def skewed() -> Draw:
    """0.1 in nine seeds of ten and -0.9 in the tenth: a mean of 0."""
    return lambda rng, n: np.where(rng.random(n) < 0.9, 0.1, -0.9)


DECIDED = frozenset({"confirmed", "rejected"})
CONFIRMED = frozenset({"confirmed"})
AGAINST = frozenset({"rejected", "fails seed by seed"})

#: "fails seed by seed" is a true verdict in all rows except those without a claim on single seeds.
ROWS = (
    Row(name="truth on the criterion", draw=normal(0), above=0, false=DECIDED),
    Row(name="truth on the criterion, nothing claimed of single seeds", draw=normal(0), above=0,
        min_share=0, false=AGAINST | CONFIRMED),
    Row(name="the same, bounded", draw=beta(2, 2), above=0.5, bounds=(0, 1), min_share=0,
        false=AGAINST | CONFIRMED),
    Row(name="truth on the criterion and 90 % of seeds meet", draw=skewed(), above=0,
        bounds=(-1, 1), false=AGAINST | CONFIRMED),
    Row(name="85 % of seeds meet, 90 needed", draw=normal(1.0364), above=0, false=DECIDED),
    Row(name="the same, bounded", draw=meeting(0.85), above=0, bounds=(-1, 2), false=DECIDED),
    Row(name="90 % of seeds meet, 90 needed", draw=meeting(0.9), above=0, bounds=(-1, 2),
        false=AGAINST | CONFIRMED),
    Row(name="mean fails by 5 % catastrophes", draw=catastrophes(0.05, 21), above=0,
        false=CONFIRMED),
    Row(name="the same, ten times as deep", draw=catastrophes(0.05, 210), above=0,
        false=CONFIRMED),
    Row(name="the same, bounded", draw=catastrophes(0.05, 21), above=0, bounds=(-25, 25),
        false=CONFIRMED),
    Row(name="mean fails by 1 % catastrophes, bounded", draw=catastrophes(0.01, 101), above=0,
        bounds=(-105, 105), false=CONFIRMED),
    Row(name="lognormal, above its mean", draw=lognormal(1), above=1, false=DECIDED),
    Row(name="lognormal, below its mean", draw=lognormal(1), below=1, false=DECIDED),
    Row(name="lognormal, above its mean, bounded by 0", draw=lognormal(1), above=1, min_share=0,
        bounds=(0, None), false=AGAINST | CONFIRMED),
    Row(name="lognormal of sigma 2, below its mean, bounded by 0", draw=lognormal(2), below=1,
        min_share=0, bounds=(0, None), false=AGAINST | CONFIRMED),
    Row(name="75 % of seeds meet, half of the failing are lost", draw=meeting(0.75), above=0,
        lost=0.5, bounds=(-1, 2), false=CONFIRMED),
    Row(name="75 % of seeds meet, 70 % of the failing are lost", draw=meeting(0.75), above=0,
        lost=0.7, bounds=(-1, 2), false=CONFIRMED),
    Row(name="the same, without bounds", draw=meeting(0.75), above=0, lost=0.7,
        false=CONFIRMED),
)  # fmt: skip

#: True claims: how many seeds until they are confirmed, alone and as one of seven true ones.
TRUE = (
    Row(name="bounded, all seeds meet", draw=beta(20, 5), above=0.5, bounds=(0, 1),
        false=frozenset()),
    Row(name="bounded, 97 % of seeds meet", draw=meeting(0.97), above=0, bounds=(-1, 2),
        false=frozenset()),
    Row(name="accuracy better by 0.04 in [-1, 1]", above=0, bounds=(-1, 1), false=frozenset(),
        draw=lambda rng, n: rng.normal(0.04, 0.01, n).clip(-1, 1)),
    Row(name="without bounds, 5 sd from the criterion", draw=normal(5), above=0,
        false=frozenset()),
    Row(name="without bounds, 2.5 sd, 99.4 % meet", draw=normal(2.5), above=0, false=frozenset()),
)  # fmt: skip

#: False claims: how many seeds until they are decided against.
UNTRUE = (
    Row(name="85 % of seeds meet, 90 claimed", draw=meeting(0.85), above=0, bounds=(-1, 2),
        false=frozenset()),
    Row(name="70 % of seeds meet, 90 claimed", draw=meeting(0.7), above=0, bounds=(-1, 2),
        false=frozenset()),
    Row(name="half of the seeds meet", draw=normal(0), above=0, false=frozenset()),
    Row(name="no seed meets, without bounds", draw=normal(-5), above=0, false=frozenset()),
)  # fmt: skip


def reported(row: Row, values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Which issued seeds are reported."""
    _, finding = row.claim()
    fails = np.array([not finding.criterion.met_by(v) for v in values.tolist()])
    return ~(fails & (rng.random(len(values)) < row.lost))


def decisions(row: Row, values: np.ndarray, there: np.ndarray) -> Iterator[tuple[int, Decision]]:
    """The new rule at every look, at seeds as they are issued."""
    manifest, finding = row.claim()
    for n in LOOKS:
        seen = values[:n][there[:n]]
        if len(seen) >= FIRST:
            yield n, decide([weigh(manifest, finding, seen, n - len(seen))])[0]


def new_is_false(row: Row, values: np.ndarray, there: np.ndarray) -> bool:
    return any(decision in row.false for _, decision in decisions(row, values, there))


def old_is_false(row: Row, values: np.ndarray, there: np.ndarray) -> bool:
    """The rule of 0.1.0, which considers only reported seeds."""
    _, finding = row.claim()
    seen = values[there]
    return any(
        fixed_verdict(finding, seen[:n].tolist()) in row.false for n in range(FIRST, len(seen) + 1)
    )


def false_rates(row: Row, paths: int) -> tuple[float, float]:
    """Share of paths with any false verdict, by the old rule and by the new."""
    rng = np.random.default_rng(SEED)
    old = new = 0
    for _ in range(paths):
        values = row.draw(rng, LAST)
        there = reported(row, values, rng)
        old += old_is_false(row, values, there)
        new += new_is_false(row, values, there)
    return old / paths, new / paths


def family_rates(row: Row, paths: int) -> tuple[float, float]:
    """Share of paths on which any of all the findings is ever falsely confirmed, in ten reviews."""
    rng = np.random.default_rng(SEED)
    manifest, finding = row.claim()
    old = new = 0
    for _ in range(paths):
        drawn = [row.draw(rng, LAST) for _ in range(FINDINGS)]
        old += any(
            fixed_verdict(finding, values[:n].tolist()) == "confirmed"
            for values in drawn for n in REVIEWS
        )  # fmt: skip
        new += any(
            "confirmed" in decide([weigh(manifest, finding, values[:n], 0) for values in drawn])
            for n in REVIEWS
        )
    return old / paths, new / paths


def seeds_to(row: Row, wanted: frozenset[str], findings: int, paths: int) -> tuple[float, float]:
    """Median seeds until the verdict, of ``findings`` alike, and the share decided by the last."""
    rng = np.random.default_rng(SEED)
    manifest, finding = row.claim()
    needed = []
    for _ in range(paths):
        family = [row.draw(rng, LAST) for _ in range(findings)]
        first = next(
            (
                n for n in LOOKS
                if decide([weigh(manifest, finding, v[:n], 0) for v in family])[0] in wanted
            ),
            np.inf,
        )  # fmt: skip
        needed.append(first)
    return float(np.median(needed)), float(np.mean(np.isfinite(needed)))


def _seeds(median: float) -> str:
    return f"{median:g}" if np.isfinite(median) else f"over {LAST}"


FAMILIES = (
    Row(name="means on their border", draw=normal(0), above=0, min_share=0, false=CONFIRMED),
    Row(name="bounded means on their border", draw=beta(2, 2), above=0.5, bounds=(0, 1),
        min_share=0, false=CONFIRMED),
    Row(name="shares on their border", draw=meeting(0.9), above=0, bounds=(-1, 2),
        false=CONFIRMED),
)  # fmt: skip


def print_rows(head: str, rows: Iterable[tuple[str, float, float]]) -> list[float]:
    """Print a table of names and rates by the old rule and by the new; the new rates."""
    print(f"\n| {head} | old rule | new rule |\n|---|---|---|")
    found = []
    for name, old, new in rows:
        print(f"| {name} | {old:.1%} | {new:.1%} |", flush=True)
        found.append(new)
    return found


def print_costs(paths: int) -> None:
    """Print how many seeds a verdict takes."""
    print("\n| claim | alone | of seven alike | decided by seed 200 |\n|---|---|---|---|")
    for rows, wanted in ((TRUE, CONFIRMED), (UNTRUE, AGAINST)):
        for row in rows:
            alone, by_last = seeds_to(row, wanted, 1, paths // 10)
            family, _ = seeds_to(row, wanted, 7, paths // 20)
            print(
                f"| {row.name} | {_seeds(alone)} | {_seeds(family)} | {by_last:.0%} |", flush=True
            )


def main() -> int:
    from tests.science.budget_verdicts import BUDGET, budget_rates  # which draw as it is done here
    from tests.science.study_verdicts import STUDY_ROWS, study_rates

    parser = argparse.ArgumentParser(description="false verdicts under peeking, old rule and new")
    parser.add_argument("--paths", type=int, default=PATHS)
    paths = parser.parse_args().paths
    rates = print_rows("truth", ((row.name, *false_rates(row, paths)) for row in ROWS))
    rates += print_rows(
        f"{FINDINGS} findings, ten reviews",
        ((row.name, *family_rates(row, paths // 5)) for row in FAMILIES),
    )
    rates += print_rows(
        "a study, looked at after every second seed",
        ((row.name, *study_rates(row, paths // 10)) for row in STUDY_ROWS),
    )
    old, new, share = budget_rates(paths // 5)
    rates += print_rows(
        f"a budget of {BUDGET} seeds for 20 findings",
        [("any false verdict at any batch", old, new)],
    )
    print(f"\nOf what the new rule decided with the budget {share:.1%} is false, on average.")
    print_costs(paths)
    worst = max(rates)
    print(f"\nWorst row of the new rule: {worst:.1%}, of at most {LIMIT:.0%}.")
    return int(worst > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
