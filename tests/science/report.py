"""What docs/findings.md is written from: tables of the twenty seeds, and a picture of each.

    python -m tests.science.report                       the tables
    python -m tests.science.report --pictures FOLDER     and the pictures
    python -m tests.science.report --seeds 2001 2010     the tables of seeds of your own choice

Runs that are not kept yet are made, side by side.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from axiom_protocol.figure import draw
from axiom_protocol.manifest import Finding
from axiom_protocol.verdicts.samples import value_of
from tests.science.harness import experiment
from tests.science.judged import verdicts
from tests.science.plan import FIRST_SEED, JUDGED, TWENTY, whole
from tests.science.runs import make, result


def main() -> int:
    parser = argparse.ArgumentParser(description="tables of findings.md, and its pictures")
    parser.add_argument("--pictures", type=Path, metavar="FOLDER")
    parser.add_argument("--seeds", type=int, nargs=2, metavar=("FIRST", "LAST"))
    given = parser.parse_args()
    chosen = range(given.seeds[0], given.seeds[1] + 1) if given.seeds else None
    seeds = {name: chosen or TWENTY[name] for name in JUDGED}
    wanted = [whole(name, seed) for name in JUDGED for seed in seeds[name]]
    failures = make(wanted, lambda line: print(line, file=sys.stderr, flush=True))
    if failures:
        print(*failures, sep="\n", file=sys.stderr)
        return 1
    for name in JUDGED:
        print(f"\n### {name}\n")
        print("\n".join(table(name, seeds[name])))
        if given.pictures:
            manifest, _ = experiment(name)
            path = given.pictures / f"{name}.png"
            draw(manifest, [result(name, FIRST_SEED[name])], path, manifest.figures[0].name)
    return 0


def table(name: str, seeds: Sequence[int]) -> list[str]:
    """Markdown rows: finding, criterion, least and greatest seed, mean and interval, verdict."""
    manifest, _ = experiment(name)
    judged = verdicts(name, [whole(name, seed) for seed in seeds])
    lines = [
        "| finding | criterion | seeds, least to most | mean, 95 % at any time | verdict "
        "| by 0.1.0 |",
        "|" + 6 * "---|",
    ]
    for finding in manifest.findings:
        verdict = judged[finding.name]
        values = [value_of(finding, result(name, seed)) for seed in seeds]
        known = sorted(value for value in values if value is not None)
        mean = f"{_shown(verdict.estimate)} ({_shown(verdict.low)} to {_shown(verdict.high)})"
        lines.append(
            f"| {finding.name} | {criterion(finding)} | {known[0]:.3g} to {known[-1]:.3g} "
            f"| {mean} | {verdict.verdict}, {verdict.meeting} of {verdict.seeds} "
            f"| {verdict.fixed_verdict} |"
        )
    return lines


def _shown(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3g}"


def criterion(finding: Finding) -> str:
    above, below = finding.criterion.above, finding.criterion.below
    if above is not None and below is not None:
        return f"{above:g} to {below:g}"
    return f"above {above:g}" if above is not None else f"below {below:g}"


if __name__ == "__main__":
    sys.exit(main())
