"""Tolerances against what they must lie between: drift between machines and scatter of seeds.

    python -m tests.science.tolerances NAME ...

prints, for each compared number of a result, the spread between seeds, the largest difference
between this processor's kernels and others', and the declared tolerance at a typical value.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from axiom_protocol.manifest import Field
from axiom_protocol.result import Result
from tests.science.harness import experiment
from tests.science.plan import DRIFTING, FIRST_SEED, drifted, whole
from tests.science.runs import run

SEEDS = 10
ROUNDING = 1e-12  # of numbers that no seed changes
MARGIN = 10.0  # a tolerance is at least so many times below the scatter between seeds


@dataclass(frozen=True, kw_only=True)
class Spread:
    """One field: standard deviation between seeds, largest drift, and the declared tolerance."""

    path: str
    seeds: float
    drift: float
    tolerance: float

    @property
    def is_tight(self) -> bool:
        """Constant fields, which no seed changes, have nothing to be confused with."""
        return self.seeds < ROUNDING or self.tolerance <= self.seeds / MARGIN


def numbers(fields: Mapping[str, Field], result: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(path, values) of each compared number or list of numbers; records one list a field."""
    for name, field in sorted(fields.items()):
        if field.chaotic:
            continue
        if field.kind == "records":
            rows = result[name]
            for inner, of in field.fields.items():
                if not of.chaotic and of.kind == "number":
                    yield f"{name}.{inner}", (of, np.ravel([row[inner] for row in rows]))
        elif field.kind == "number":
            yield f"{path}{name}", (field, np.ravel(result[name]))


def spreads(name: str) -> list[Spread]:
    """Of every compared number of an experiment, from kept runs."""
    fields, first = experiment(name)[0].result, FIRST_SEED[name]
    seeds = [run(whole(name, first + i)).result for i in range(SEEDS)]
    pairs = [
        (run(whole(name, first + i)).result, run(drifted(name, first + i, kernel)).result)
        for kernel, count in DRIFTING.items()
        for i in range(count)
    ]
    return [
        Spread(
            path=path,
            seeds=between_seeds([_values(fields, path, one) for one in seeds]),
            drift=max(_difference(*(_values(fields, path, one) for one in pair)) for pair in pairs),
            tolerance=field.atol + field.rtol * float(np.median(np.abs(values))),
        )
        for path, (field, values) in numbers(fields, seeds[0])
    ]  # fmt: skip


def _values(fields: Mapping[str, Field], path: str, result: Result) -> NDArray[Any]:
    found: NDArray[Any] = dict(numbers(fields, result))[path][1]
    return found


def between_seeds(values: list[NDArray[Any]]) -> float:
    """Median over a field's numbers of their standard deviation; of lists of one length alone."""
    shortest = min(map(len, values))
    return float(np.median(np.std([v[:shortest] for v in values], axis=0, ddof=1)))


def _difference(a: NDArray[Any], b: NDArray[Any]) -> float:
    return float(np.abs(a - b).max()) if len(a) == len(b) else float("inf")


def main(names: list[str]) -> None:
    for name in names:
        print(f"== {name}: seeds, drift, tolerance")
        for one in spreads(name):
            mark = " " if one.is_tight and one.drift <= one.tolerance else "!"
            print(f"{mark} {one.path:32} {one.seeds:9.2g} {one.drift:9.2g} {one.tolerance:9.2g}")


if __name__ == "__main__":
    main(sys.argv[1:])
