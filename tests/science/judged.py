"""Judge kept runs with the server's own function, as if several hosts had computed them."""

from __future__ import annotations

from collections.abc import Sequence

from axiom_protocol.manifest import Manifest, Parameters
from axiom_protocol.result import Result
from axiom_protocol.verdicts.findings import Study, Verdicts, judge_together
from axiom_protocol.verdicts.samples import PROBES, Sample, is_seed_ignored
from tests.science.harness import experiment
from tests.science.runs import RunSpec, run

HOSTS = 4


def verdicts(name: str, wanted: Sequence[RunSpec]) -> dict[str, Verdicts]:
    """What the server says of these runs, by finding. They count as runs of the sound experiment:
    a server cannot see that a twin is one.
    """
    manifest, _ = experiment(name)
    results = [run(spec).result for spec in wanted]
    parameters = [manifest.resolve(dict(spec.parameters)) for spec in wanted]
    ignored = is_seed_ignored(manifest, results[:PROBES])
    seeds = [spec.seed for spec in wanted]
    return judge_results(manifest, seeds, results, parameters=parameters, seed_ignored=ignored)


def judge_results(
    manifest: Manifest,
    seeds: Sequence[int],
    results: Sequence[Result],
    *,
    parameters: Sequence[Parameters] | None = None,
    seed_ignored: bool = False,
) -> dict[str, Verdicts]:
    """The verdicts, by finding, on one result a seed, of the default parameters unless given."""
    used = parameters or [manifest.resolve({})] * len(seeds)
    samples = samples_of(seeds, results, used)
    study = Study(manifest=manifest, samples=samples, seed_ignored=seed_ignored)
    return {v.name: v for v in judge_together([study])[0]}


def samples_of(
    seeds: Sequence[int], results: Sequence[Result], parameters: Sequence[Parameters]
) -> list[Sample]:
    """One settled sample a seed, spread over HOSTS."""
    return [
        Sample(task_id=i, seed=seed, host_id=i % HOSTS, parameters=of, result=result)
        for i, (seed, result, of) in enumerate(zip(seeds, results, parameters, strict=True))
    ]
