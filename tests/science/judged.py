"""Kept runs, judged by axiom_server's own function, spread over hosts, with its check of seeds."""

from __future__ import annotations

from collections.abc import Sequence

from axiom_protocol.verdicts.findings import Study, Verdicts, judge_together
from axiom_protocol.verdicts.samples import PROBES, Sample, is_seed_ignored
from tests.science.harness import experiment
from tests.science.runs import Asked, run

HOSTS = 4


def verdicts(name: str, wanted: Sequence[Asked]) -> dict[str, Verdicts]:
    """What the server says of these runs, by finding. They count as runs of the sound experiment:
    a server cannot see that a twin is one.
    """
    manifest, _ = experiment(name)
    samples = [
        Sample(
            task_id=i,
            seed=asked.seed,
            host_id=i % HOSTS,
            parameters=manifest.resolve(dict(asked.parameters)),
            result=run(asked).result,
        )
        for i, asked in enumerate(wanted)
    ]
    ignored = is_seed_ignored(manifest, [sample.result for sample in samples[:PROBES]])
    study = Study(manifest=manifest, samples=samples, seed_ignored=ignored)
    return {v.name: v for v in judge_together([study])[0]}
