"""All runs of `make science`, by what they are for. Seeds are fixed here, before they are run.

Experiments were tuned on seeds below 5,101. Whole runs use FRESH seeds, which were not used for
tuning: no setting, criterion or gate was changed after they were run. Broken copies and the
measured tolerances use other seeds, from FIRST_SEED on.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product

from tests.science.harness import EXPERIMENTS
from tests.science.runs import KERNELS, RunSpec
from tests.science.twins import BROKEN, BUDGET_SECONDS, FALSIFIED, FAULTS

NAMES = sorted(path.stem for path in EXPERIMENTS.glob("*.py"))
#: Those with findings of their own: the others, such as kernel_change, are made for studies.
JUDGED = [name for name in NAMES if name in BROKEN]

FRESH = range(6001, 6045)  # of docs/findings.md: 44 that all meet confirm a bounded claim
TEN = FRESH[:10]  # of the signatures
TWENTY = FRESH[:20]  # of the findings

FIRST_SEED = dict.fromkeys(NAMES, 101) | {"progressive_sharpening": 141}
TWINS = {
    name: range(first, first + 5) for name, first in FIRST_SEED.items()
}  # as few as give a verdict

DRIFTING = {"haswell": 1, "sandybridge": 1, "prescott": 2}  # seeds of each: the last differs most

TWIN_KINDS = ("shuffled_labels", "another_test_set", "seed_ignored", "test_is_training")
assert set(DRIFTING) == set(KERNELS)
assert all(tuple(kinds) == TWIN_KINDS for kinds in BROKEN.values())


def whole(name: str, seed: int) -> RunSpec:
    """At the default budget and parameters."""
    return RunSpec(name=name, seed=seed)


def drifted(name: str, seed: int, kernel: str) -> RunSpec:
    return RunSpec(name=name, seed=seed, kernel=kernel)


def small(name: str, seed: int, twin: str | None) -> RunSpec:
    """A broken twin, or with None the sound experiment at the same budget."""
    return RunSpec(name=name, seed=seed, twin=twin, budget_seconds=BUDGET_SECONDS[name])


def repeated(name: str) -> list[RunSpec]:
    """The first seed again, in each way that must not change the result."""
    return [RunSpec(name=name, seed=FRESH[0], how=how) for how in ("warm", "restored")]


def round_robin(names: Sequence[str], seeds: Iterable[int]) -> list[RunSpec]:
    """Ordered by seed, so that at any time all experiments have about the same number of runs."""
    return [whole(name, seed) for seed in seeds for name in names]


def everything() -> list[RunSpec]:
    """All runs, in the order in which they are made: one run of each experiment first."""
    return [
        *round_robin(NAMES, TWENTY),
        *(spec for name in NAMES for spec in repeated(name)),
        *(
            small(name, seed, twin)
            for name in JUDGED
            for twin, seed in product((None, *TWIN_KINDS), TWINS[name])
        ),
        *(
            small(name, FIRST_SEED[name], fault)
            for name, kinds in (*FAULTS.items(), *FALSIFIED.items())
            for fault in kinds
        ),
        *(
            drifted(name, seed, kernel)
            for name in NAMES
            for kernel, seeds in DRIFTING.items()
            for seed in FRESH[:seeds]
        ),
    ]
