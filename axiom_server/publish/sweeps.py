"""Sweeps from the command line: `--sweep width=8,16 --sweep alpha=0.1,1 --seeds 5`."""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Sequence

from axiom_protocol.manifest import ManifestError, Parameters
from axiom_server.errors import Usage
from axiom_server.publish.deploy import select_versions
from axiom_server.publish.publish import SWEEP_SETS_MAX
from axiom_server.review import studies as review
from axiom_server.store import experiments, studies
from axiom_server.store.database import Connection
from axiom_server.store.experiments import VersionRow


def read_axes(texts: Sequence[str]) -> dict[str, list[object]]:
    """Values by parameter, from ``name=v1,v2`` texts. Raises Usage."""
    axes: dict[str, list[object]] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        if not equals or not values or name in axes:
            raise Usage(f"--sweep {text!r}: write name=value,value, once for each parameter")
        axes[name] = [_value(value) for value in values.split(",")]
    return axes


def _value(text: str) -> object:
    """A number or boolean as in TOML; any other text stays a text."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def grid(axes: dict[str, list[object]]) -> list[Parameters]:
    """Every combination of the values. Raises Usage when there are too many."""
    sets = [
        dict(zip(axes, values, strict=True))
        for values in itertools.islice(itertools.product(*axes.values()), SWEEP_SETS_MAX + 1)
    ]
    if len(sets) > SWEEP_SETS_MAX:
        raise Usage(f"more than {SWEEP_SETS_MAX} parameter sets; sweep fewer values")
    return sets


async def deploy_sweep(
    connection: Connection, name: str, axes: dict[str, list[object]], seeds: int,
    budget_seconds: float | None,
) -> int:  # fmt: skip
    """Queue one workunit for each parameter set and seed, for any host; returns how many.

    All sets get the same seeds, so that they can be compared seed by seed. No version has used
    these seeds before. Raises ExperimentUnknown, Usage.
    """
    (version,) = await select_versions(connection, [name])
    sets = grid(axes)
    _check(version, sets)
    budget = budget_seconds or version.manifest.expected_seconds
    first = await studies.unused_seed(connection, version.version_id)
    ids = [
        await experiments.parameters_id(connection, version.version_id, parameters, budget)
        for parameters in sets
    ]
    return await review.issue_block(connection, version, ids, (first, first + seeds - 1), {})


def _check(version: VersionRow, sets: Sequence[Parameters]) -> None:
    try:
        for parameters in sets:
            version.manifest.resolve(parameters)
    except ManifestError as error:
        raise Usage(str(error)) from None
