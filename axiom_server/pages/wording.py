"""What findings say, in words."""

from __future__ import annotations

from axiom_protocol.manifest import Criterion, Finding


def statistic_text(finding: Finding) -> str:
    """What the criterion is held against, in words."""
    return {
        "mean": finding.field,
        "share": f"share of seeds with {finding.field}",
        "difference": f"{finding.field} - {finding.control}",
        "ratio": f"{finding.field} / {finding.control}",
    }[finding.statistic]


def criterion_text(criterion: Criterion) -> str:
    """The criterion in words."""
    above, below = criterion.above, criterion.below
    if above is not None and below is not None:
        return f"between {above:g} and {below:g}"
    return f"above {above:g}" if above is not None else f"below {below:g}"
