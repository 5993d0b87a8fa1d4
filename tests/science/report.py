"""What docs/findings.md is written from: tables of the twenty seeds, and a picture of each.

python -m tests.science.report [FOLDER]     the tables; and pictures into FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

from axiom_protocol.figure import draw
from axiom_protocol.manifest import Finding
from axiom_server.decide.findings import value_of
from tests.science.harness import experiment
from tests.science.judged import verdicts
from tests.science.plan import FIRST_SEED, NAMES, TWENTY, whole
from tests.science.runs import result


def main() -> None:
    for name in NAMES:
        print(f"\n### {name}\n")
        print("\n".join(table(name)))
        if len(sys.argv) > 1:
            manifest, _ = experiment(name)
            path = Path(sys.argv[1]) / f"{name}.png"
            draw(manifest, [result(name, FIRST_SEED[name])], path, manifest.figures[0].name)


def table(name: str) -> list[str]:
    """Markdown rows: finding, criterion, least and greatest seed, mean and interval, verdict."""
    manifest, _ = experiment(name)
    judged = verdicts(name, [whole(name, seed) for seed in TWENTY[name]])
    lines = [
        "| finding | criterion | seeds, least to most | mean, 95 % | verdict |",
        "|" + 5 * "---|",
    ]
    for finding in manifest.findings:
        verdict = judged[finding.name]
        values = [value_of(finding, result(name, seed)) for seed in TWENTY[name]]
        known = sorted(value for value in values if value is not None)
        mean = f"{verdict.estimate:.3g} ({verdict.low:.3g} to {verdict.high:.3g})"
        lines.append(
            f"| {finding.name} | {criterion(finding)} | {known[0]:.3g} to {known[-1]:.3g} "
            f"| {mean} | {verdict.verdict}, {verdict.meeting} of {verdict.seeds} |"
        )
    return lines


def criterion(finding: Finding) -> str:
    above, below = finding.criterion.above, finding.criterion.below
    if above is not None and below is not None:
        return f"{above:g} to {below:g}"
    return f"above {above:g}" if above is not None else f"below {below:g}"


if __name__ == "__main__":
    main()
