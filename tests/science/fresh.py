"""The numbers behind docs/findings.md, kept in fresh_seeds.json with one row for each seed.

Only the fields that findings read, and other fields shown on the page (TOLD), are kept. The runs
themselves are in .science-runs, which is not in the repository.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from axiom_protocol.manifest import Manifest
from axiom_protocol.result import Result
from axiom_protocol.verdicts.findings import Study, Verdicts, judge_together
from axiom_protocol.verdicts.samples import PROBES, is_seed_ignored
from tests.science.harness import experiment
from tests.science.judged import samples_of
from tests.science.runs import result

NUMBERS = Path(__file__).with_name("fresh_seeds.json")
DIGITS = 9  # significant; what verdicts and tables show has three

#: Fields that the page shows besides those of the findings: numbers, or lists of one length.
TOLD: Mapping[str, Sequence[str]] = {
    "activation_functions": ("tanh_accuracy", "rescaled_accuracy", "relu_accuracy"),
    "catapult_phase": ("last_stable_rate", "catapult_lambda_ratio", "lazy_lambda_shift"),
    "depth_and_width": ("pieces_per_unit", "trained_error"),
    "double_descent_v2": ("random_label_error",),
    "edge_of_chaos": ("critical_theory", "critical_measured", "chaotic_accuracy", "growth_rmse"),
    "eigenspectrum": ("outliers_untrained", "overlap_permuted", "error_permuted"),
    "feature_learning_phase": (),
    "grokking": ("memorised_at", "generalised_at", "plentiful_delay", "periodic_start"),
    "loss_landscape_curvature": ("noisy_curvature", "quiet_curvature", "start_curvature"),
    "progressive_sharpening": ("thrown_off", "edge_low", "edge_high"),
    "rank_dynamics": (
        "weight_change_small", "weight_change_he", "hidden_change_small", "hidden_change_he",
        "centred_change_small", "centred_change_he", "compressed_share_small",
        "compressed_share_he", "middle_rate_excess", "transition_share_naive",
        "monotone_share_weights", "monotone_share_hidden", "accuracy_small", "accuracy_he",
        "hard_accuracy_small", "hard_accuracy_he",
    ),
    "rank_lottery": (
        "dense_accuracy", "ticket_accuracy", "signs_accuracy", "unsigned_accuracy",
        "reinit_accuracy", "random_accuracy", "top_kept_magnitude", "bulk_kept_magnitude",
        "selectivity_untrained", "top_only_accuracy", "bulk_only_accuracy", "ticket_wins",
    ),
    "sam_vs_sgd_v2": (
        "rho", "lambda_ratio", "clean_lambda_equal", "noisy_lambda_equal", "lambda_equal_loss",
        "clean_gain", "noisy_gain", "unreached_share",
    ),
    "simplicity_bias": ("accuracy", "linear_alone", "all_shuffled"),
}  # fmt: skip


def wanted_fields(name: str, manifest: Manifest) -> list[str]:
    """The fields in a fixed order: those needed by all verdicts, by findings, and by the page."""
    read = [f for finding in manifest.findings for f in (finding.field, finding.control) if f]
    return list(dict.fromkeys(["valid", "configs_done", *read, *TOLD[name]]))


def collect(name: str, seeds: Sequence[int]) -> dict[str, Any]:
    """The numbers of these seeds' runs, added to those that are kept of the same version.

    Raises ValueError if the experiment ignores its seed.
    """
    manifest, _ = experiment(name)
    results = [result(name, seed) for seed in seeds]
    if is_seed_ignored(manifest, results[:PROBES]):
        raise ValueError(f"{name}: different seeds give the same numbers")
    fields = wanted_fields(name, manifest)
    rows = {
        str(seed): [_rounded(one[f]) for f in fields]
        for seed, one in zip(seeds, results, strict=True)
    }
    known = _kept_rows(name, manifest.version, fields) | rows
    in_order = dict(sorted(known.items(), key=lambda item: int(item[0])))
    return {"version": manifest.version, "fields": fields, "seeds": in_order}


def _kept_rows(name: str, version: str, fields: Sequence[str]) -> dict[str, Any]:
    """The kept rows by seed; none if they are of another version or have other fields."""
    one = kept().get(name) if NUMBERS.exists() else None
    same = one is not None and (one["version"], one["fields"]) == (version, list(fields))
    return dict(one["seeds"]) if one is not None and same else {}


def _rounded(value: Any) -> Any:
    if isinstance(value, list):
        return [_rounded(v) for v in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def write(found: Mapping[str, dict[str, Any]]) -> None:
    """Write one line for each seed, so that diffs are readable."""
    parts = []
    for name, one in sorted(found.items()):
        rows = ",\n".join(f'   "{s}": {json.dumps(row)}' for s, row in one["seeds"].items())
        head = (
            f'  "version": {json.dumps(one["version"])},\n  "fields": {json.dumps(one["fields"])}'
        )
        parts.append(f' "{name}": {{\n{head},\n  "seeds": {{\n{rows}\n  }}\n }}')
    NUMBERS.write_text("{\n" + ",\n".join(parts) + "\n}\n")
    kept.cache_clear()
    all_verdicts.cache_clear()


@cache
def kept() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(NUMBERS.read_text())
    return found


def results(name: str) -> dict[int, Result]:
    """The kept fields, by seed."""
    one = kept()[name]
    return {int(s): dict(zip(one["fields"], row, strict=True)) for s, row in one["seeds"].items()}


def verdicts(name: str) -> dict[str, Verdicts]:
    """The verdicts by finding, from the kept numbers, by the current rule and criteria."""
    return all_verdicts()[name]


@cache
def all_verdicts() -> dict[str, dict[str, Verdicts]]:
    """The verdicts of all experiments, decided together as on a server."""
    studies = []
    for name in kept():
        manifest, found = experiment(name)[0], results(name)
        used = [manifest.resolve({})] * len(found)
        samples = samples_of(list(found), list(found.values()), used)
        studies.append(Study(manifest=manifest, samples=samples))
    judged = judge_together(studies)
    return {name: {v.name: v for v in of} for name, of in zip(kept(), judged, strict=True)}
