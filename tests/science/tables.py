"""Markdown tables of the kept numbers: the findings of one experiment, its other numbers, and how
many findings of each experiment have which verdict.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np

from axiom_protocol.manifest import Finding
from axiom_protocol.result import Result
from axiom_protocol.verdicts.findings import Verdicts
from axiom_protocol.verdicts.samples import value_of
from tests.science import fresh
from tests.science.harness import experiment

HEAD = (
    "finding", "claim", "criterion", "n", "seeds, least to most", "mean, 95 % at any time",
    "seeds that meet it", "verdict", "rule of 0.1.0",
)  # fmt: skip

#: Findings of the experiments on what the log called confirmed that say what a control does.
CONTROLS = {
    "activation_functions": ("two_layers_learn", "not_saturation"),
    "depth_and_width": ("depth_does_not_double", "training_keeps_the_law"),
    "edge_of_chaos": ("not_in_order", "not_in_chaos", "tanh_moves_the_edge"),
    "eigenspectrum": ("none_below_the_threshold", "none_from_noise"),
    "grokking": ("random_labels_never", "decay_causes_it", "more_pairs_less_delay"),
    "loss_landscape_curvature": ("the_ratio_decides", "flatter_is_not_better"),
    "rank_lottery": ("mask_beats_random", "without_signs_nothing_is_won"),
    "simplicity_bias": ("slab_can_be_learnt", "equals_are_both_used"),
}
FIRST = 10  # seeds of the signatures


def of_signatures() -> list[str]:
    """One row an experiment: how many of its first ten seeds show the signature, that is all
    findings that are no control's, and how many the controls.
    """
    rows = []
    for name, controls in CONTROLS.items():
        found = list(fresh.results(name).values())[:FIRST]
        claims = experiment(name)[0].findings
        shown_by, control = (
            sum(all(holds(f, r) for f in claims if (f.name in controls) is wanted) for r in found)
            for wanted in (False, True)
        )
        told = (shown_by, control)
        rows.append((name, *(f"{k} of {len(found)}" for k in told), ", ".join(controls)))
    return _table(("experiment", "signature", "controls", "findings of the controls"), rows)


def holds(finding: Finding, result: Result) -> bool:
    """Whether a valid seed meets the criterion by itself; of a share, whether its flag is set."""
    value = value_of(finding, result)
    if result["valid"] != 1 or value is None:
        return False
    return value == 1 if finding.statistic == "share" else finding.criterion.met_by(value)


def of_findings(name: str) -> list[str]:
    """One row a finding, judged by the present rule; n counts valid seeds."""
    manifest, _ = experiment(name)
    judged = fresh.verdicts(name)
    return _table(HEAD, (_row(name, f, judged[f.name]) for f in manifest.findings))


def _row(name: str, finding: Finding, verdict: Verdicts) -> tuple[str, ...]:
    found = [value_of(finding, r) for r in fresh.results(name).values() if r["valid"] == 1]
    known = sorted(value for value in found if value is not None)
    return (
        finding.name, " ".join(finding.claim.split()), criterion(finding), str(verdict.seeds),
        f"{shown(known[0])} to {shown(known[-1])}",
        f"{shown(verdict.estimate)} ({between(verdict.low, verdict.high)})",
        f"{verdict.meeting} of {verdict.seeds}", described(verdict), verdict.fixed_verdict,
    )  # fmt: skip


def described(verdict: Verdicts) -> str:
    """The verdict; with a note if it would be decided without the other findings."""
    alone = verdict.reason.startswith("decided by itself")
    return f"{verdict.verdict}, decided alone" if alone else verdict.verdict


def of_numbers(name: str) -> list[str]:
    """One row a field that the page tells beside the findings: mean, least and most of the valid
    seeds; of lists, the mean of each place.
    """
    manifest, _ = experiment(name)
    valid = [r for r in fresh.results(name).values() if r["valid"] == 1]
    rows = []
    for field in fresh.TOLD[name]:
        values = np.array([r[field] for r in valid], dtype=float)
        told = ", ".join(shown(v) for v in np.atleast_1d(values.mean(axis=0)))
        spread = f"{shown(values.min())} to {shown(values.max())}" if values.ndim == 1 else ""
        rows.append((field, manifest.result[field].about.replace("|", "\\|"), told, spread))
    head = ("also reported", "what it is", "mean", "seeds, least to most")
    return _table(head, rows) if rows else []


def summary() -> list[str]:
    """One row an experiment: its version, seeds, gates passed, and verdicts of both rules."""
    rows = []
    for name in fresh.kept():
        manifest, _ = experiment(name)
        found = list(fresh.results(name).values())
        judged = list(fresh.verdicts(name).values())
        rows.append((
            f"{name} {fresh.kept()[name]['version']}", str(len(found)),
            str(sum(r["valid"] == 1 for r in found)), str(len(manifest.findings)),
            str(sum(met_by_all(v) for v in judged)),
            _counted(v.verdict for v in judged), _counted(v.fixed_verdict for v in judged),
        ))  # fmt: skip
    head = (
        "experiment", "seeds", "valid", "findings", "met by every seed", "verdicts of today",
        "by the rule of 0.1.0",
    )  # fmt: skip
    return _table(head, rows)


def met_by_all(verdict: Verdicts) -> bool:
    return verdict.meeting == verdict.seeds > 0


def _counted(verdicts: Iterable[str]) -> str:
    return ", ".join(f"{n} {verdict}" for verdict, n in sorted(Counter(verdicts).items()))


def criterion(finding: Finding) -> str:
    above, below = finding.criterion.above, finding.criterion.below
    if above is not None and below is not None:
        return f"{above:g} to {below:g}"
    return f"above {above:g}" if above is not None else f"below {below:g}"


def shown(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3g}"


def between(low: float | None, high: float | None) -> str:
    """An interval, of which an end may be unknown."""
    if low is None and high is None:
        return "unknown"
    return f"{shown(low)} to {shown(high)}"


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    lines = [head, ("---",) * len(head), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]
