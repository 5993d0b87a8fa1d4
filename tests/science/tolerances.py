"""Compare tolerances with the drift between machines and the scatter of seeds.

    python -m tests.science.tolerances NAME ...

measures, for each compared number of a result, the scatter between seeds, the largest difference
between this processor's kernels and others', and a typical value. It prints them next to the
declared tolerance, and writes them to measured_tolerances.json, which the quick tests compare with
the declarations. The runs are of the sound experiments, with the budgets of the broken copies.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from axiom_protocol.manifest import Field
from axiom_protocol.result import Result
from tests.science.harness import experiment
from tests.science.plan import FIRST_SEED
from tests.science.runs import KERNELS, RunSpec, run
from tests.science.twins import BUDGET_SECONDS

MEASURED = Path(__file__).with_name("measured_tolerances.json")
SEEDS = 5
ROUNDING = 1e-6  # relative scatter of numbers that no seed changes
MARGIN = 10.0  # a tolerance is at least so many times below the scatter between seeds


@dataclass(frozen=True, kw_only=True)
class Spread:
    """One field: deviation between seeds, largest drift between kernels, and typical value.

    ``relative`` is the largest drift over the larger of the two numbers.
    """

    path: str
    seeds: float
    drift: float
    relative: float
    typical: float

    def tolerance(self, field: Field) -> float:
        return field.atol + field.rtol * self.typical

    def is_tight(self, field: Field) -> bool:
        """Whether the tolerance is below the scatter; true for numbers that no seed changes."""
        constant = self.seeds <= ROUNDING * self.typical or self.seeds < 1e-12
        return constant or self.tolerance(field) <= self.seeds / MARGIN

    def is_wide_enough(self, field: Field) -> bool:
        return self.drift <= self.tolerance(field) or self.relative <= field.rtol


def numbers(fields: Mapping[str, Field], result: Result) -> Iterator[tuple[str, Any]]:
    """(path, values) of each compared number or list of numbers; records one list a field."""
    for name, field in sorted(fields.items()):
        if field.chaotic:
            continue
        if field.kind == "records":
            rows = result[name]
            for inner, of in field.fields.items():
                if not of.chaotic and of.kind == "number":
                    yield (
                        f"{name}.{inner}",
                        (of, np.concatenate([np.ravel(row[inner]) for row in rows])),
                    )
        elif field.kind == "number":
            yield name, (field, np.ravel(result[name]))


def small(name: str, seed: int, kernel: str | None = None) -> Result:
    spec = RunSpec(name=name, seed=seed, kernel=kernel, budget_seconds=BUDGET_SECONDS[name])
    return run(spec).result


def spreads(name: str) -> list[Spread]:
    """The spread of every compared number of an experiment, from kept runs."""
    fields, first = experiment(name)[0].result, FIRST_SEED[name]
    seeds = [small(name, first + i) for i in range(SEEDS)]
    pairs = [(seeds[0], small(name, first, kernel)) for kernel in KERNELS]
    return of_results(fields, seeds, pairs)


def of_results(
    fields: Mapping[str, Field], seeds: list[Result], pairs: list[tuple[Result, Result]]
) -> list[Spread]:
    """Spreads from results of different seeds, and from pairs of one seed under two kernels."""
    return [
        Spread(
            path=path,
            seeds=between_seeds([_values(fields, path, one) for one in seeds]),
            drift=max(_difference(*(_values(fields, path, one) for one in pair)) for pair in pairs),
            relative=max(_relative(*(_values(fields, path, one) for one in p)) for p in pairs),
            typical=float(np.median(np.abs(values))),
        )
        for path, (_, values) in numbers(fields, seeds[0])
    ]


def declared(fields: Mapping[str, Field]) -> dict[str, Field]:
    """The fields of ``numbers`` by their paths."""
    found = {}
    for name, field in fields.items():
        inner = field.fields if field.kind == "records" else {"": field}
        paths = {f"{name}.{k}" if k else name: f for k, f in inner.items() if f.kind == "number"}
        if not field.chaotic:
            found |= {path: f for path, f in paths.items() if not f.chaotic}
    return found


def measured() -> dict[str, list[Spread]]:
    """The measured spreads that were written last, by experiment."""
    kept = json.loads(MEASURED.read_text())
    return {name: [Spread(**row) for row in rows] for name, rows in kept.items()}


def write(found: Mapping[str, list[Spread]]) -> None:
    rows = {name: [asdict(one) for one in found[name]] for name in sorted(found)}
    MEASURED.write_text(json.dumps(rows, indent=1) + "\n")


def _values(fields: Mapping[str, Field], path: str, result: Result) -> NDArray[Any]:
    found: NDArray[Any] = dict(numbers(fields, result))[path][1]
    return found


def between_seeds(values: list[NDArray[Any]]) -> float:
    """Median over a field's numbers of their standard deviation; of lists of one length alone."""
    shortest = min(map(len, values))
    return float(np.median(np.std([v[:shortest] for v in values], axis=0, ddof=1)))


def _difference(a: NDArray[Any], b: NDArray[Any]) -> float:
    return float(np.abs(a - b).max()) if len(a) == len(b) else float("inf")


def _relative(a: NDArray[Any], b: NDArray[Any]) -> float:
    larger = np.maximum(np.maximum(np.abs(a), np.abs(b)), 1e-300)
    return float((np.abs(a - b) / larger).max()) if len(a) == len(b) else float("inf")


def main(names: list[str]) -> None:
    found = measured() if MEASURED.exists() else {}
    for name in names:
        print(f"== {name}: seeds, drift, tolerance")
        found[name] = spreads(name)
        fields = declared(experiment(name)[0].result)
        for one in found[name]:
            field = fields[one.path]
            mark = " " if one.is_tight(field) and one.is_wide_enough(field) else "!"
            told = f"{one.seeds:9.2g} {one.drift:9.2g} {one.tolerance(field):9.2g}"
            print(f"{mark} {one.path:32} {told}")
    write(found)


if __name__ == "__main__":
    main(sys.argv[1:])
