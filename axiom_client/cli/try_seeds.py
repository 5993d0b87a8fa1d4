"""``axiom-client try FILE --seeds 1..8``: runs several seeds here and prints the verdicts.

The verdict rule is the server's (``axiom_protocol.verdicts``); it needs scipy, which comes with the
extra ``[verdicts]``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from rich.console import Console
from rich.table import Table

from axiom_client.errors import TrialFailed
from axiom_client.run.tryout import (
    Run,
    TryProblem,
    TryResult,
    read_parameters,
    read_script,
    try_experiment,
)
from axiom_protocol.manifest import Manifest, Parameters
from axiom_protocol.text import counted

if TYPE_CHECKING:
    from axiom_protocol.verdicts.findings import Verdicts

SEEDS_MAX = 1000


def read_seeds(text: str) -> list[int]:
    """The seeds of "1..8" or "1,2,5..7". Raises TrialFailed."""
    seeds: list[int] = []
    for part in text.split(","):
        first, dots, last = part.partition("..")
        if not first.isdecimal() or (dots and not last.isdecimal()):
            raise TrialFailed(f"--seeds {text!r}: write a range such as 1..8, or 1,4")
        if dots and int(last) - int(first) >= SEEDS_MAX:
            raise TrialFailed(f"--seeds {text!r}: give at most {SEEDS_MAX} seeds")
        seeds += range(int(first), int(last or first) + 1)
    if not seeds or len(seeds) > SEEDS_MAX:
        raise TrialFailed(f"--seeds {text!r}: give 1 to {SEEDS_MAX} seeds")
    return list(dict.fromkeys(seeds))


def try_seeds(
    path: Path, *, seeds: Sequence[int], given: list[str], budget_seconds: float | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Run every seed, print the verdict on each finding. Raises TrialFailed."""
    _check_scipy()
    try:
        manifest = read_script(path)[1]
        if not manifest.findings:
            raise TrialFailed(f"{manifest.ref} declares no finding, so there is no verdict")
        sets = _sets(manifest, read_parameters(manifest, given))
        runs = [
            _run(path, seed, parameters, budget_seconds) for parameters in sets for seed in seeds
        ]
    except (TryProblem, OSError) as error:
        raise TrialFailed(f"{error}") from None
    verdicts = _judge(manifest, runs)
    if as_json:
        facts = {"experiment": manifest.ref, "seeds": list(seeds), "findings": verdicts}
        print(msgspec.json.encode(facts).decode())
    else:
        _print(manifest, runs, verdicts)


def _check_scipy() -> None:
    try:
        import scipy  # noqa: F401  (the verdict rule's)
    except ImportError:
        raise TrialFailed(
            "verdicts need scipy: pip install 'axiom-client[verdicts]'; --seed 1 runs without it"
        ) from None


def _sets(manifest: Manifest, given: Parameters) -> list[Parameters]:
    """The given parameters, or, without any, every parameter set that a finding uses."""
    if given:
        return [given]
    sets: list[Parameters] = []
    for finding in manifest.findings:
        if finding.where not in sets:
            sets.append(finding.where)
    return sets


def _run(path: Path, seed: int, parameters: Parameters, budget: float | None) -> TryResult:
    run = Run(path=path, seed=seed, parameters=parameters, budget_seconds=budget)
    tried = try_experiment(run)
    if sys.stderr.isatty():
        print(f"seed {seed}: {tried.finished.outcome}", file=sys.stderr, flush=True)
    return tried


def _judge(manifest: Manifest, runs: Sequence[TryResult]) -> list[Verdicts]:
    """The verdicts, as in a review: seeds whose runs failed count as issued and missing."""
    from axiom_protocol.verdicts.findings import Study, judge_together
    from axiom_protocol.verdicts.samples import IssuedSeed, Sample

    samples = [
        Sample(
            task_id=i, seed=run.seed, host_id=0, parameters=run.parameters,
            result=run.finished.result,
        )
        for i, run in enumerate(runs)
        if run.finished.result is not None
    ]  # fmt: skip
    issued = [
        IssuedSeed(
            seed=run.seed, parameters=run.parameters, batch=1,
            state="failed" if run.finished.result is None else "reported",
        )
        for run in runs
    ]  # fmt: skip
    return judge_together([Study(manifest=manifest, samples=samples, issued=issued)])[0]


def _print(manifest: Manifest, runs: Sequence[TryResult], verdicts: Sequence[Verdicts]) -> None:
    failed = sum(run.finished.outcome != "success" for run in runs)
    results = [run.finished.result for run in runs if run.finished.result is not None]
    invalid = sum(not result["valid"] for result in results)
    print(f"{manifest.ref}: {counted(len(runs), 'run')}, {failed} failed, {invalid} not valid")
    table = Table(box=None, pad_edge=False)
    for heading in ("finding", "verdict", "mean", "95 % interval", "seeds meeting it", "reason"):
        table.add_column(heading, overflow="fold")
    for v in verdicts:
        table.add_row(
            v.name, v.verdict, _number(v.estimate), f"{_number(v.low)} to {_number(v.high)}",
            f"{v.meeting} of {v.seeds}", v.reason,
        )  # fmt: skip
    Console().print(table)


def _number(value: Any) -> str:
    return "-" if value is None else f"{value:.4g}"
