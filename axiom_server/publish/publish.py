"""`axiom-server publish`: check experiment files, sign them and store them; read sweeps."""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from axiom_protocol.given_file import FileProblem, read_bytes, read_text
from axiom_protocol.manifest import SCRIPT_BYTES_MAX, Manifest, ManifestError, Parameters
from axiom_server.errors import (
    ExperimentMalformed,
    ExperimentUnknown,
    FileUnreadable,
    SigningFailed,
)
from axiom_server.project_folder import ProjectFolder
from axiom_server.publish.deploy import suggest_names
from axiom_server.publish.dry_run import Check, Log, dry_run_all, read_recorded_run
from axiom_server.store import experiments
from axiom_server.store.database import Connection
from axiom_server.trust.keys import SERVER_ROLES, KeysError, Role, load_keys
from axiom_server.trust.metadata import BundlesError
from axiom_server.trust.repository import Published, read_bundle

PUBLISHING_ROLES: tuple[Role, ...] = ("targets", *SERVER_ROLES)
SWEEP_SETS_MAX = 10_000  # parameter sets of one sweep
SWEEP_BYTES_MAX = 64 * 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class DryRunOptions:
    """Which checks of the dry runs to skip, and the seconds of each run."""

    skip: Collection[Check] = ()
    budget_seconds: float | None = None


def read_source(path: Path) -> tuple[Path, bytes]:
    """Read and check an experiment file. Raises FileUnreadable, ExperimentMalformed."""
    try:
        if path.is_dir():
            raise FileUnreadable(f"{path} is a folder; give the experiment's .py file")
        source = read_bytes(path, SCRIPT_BYTES_MAX)
        read_bundle(source)
    except FileProblem as problem:
        raise FileUnreadable(str(problem)) from None
    except ManifestError as error:
        raise ExperimentMalformed(f"{path}: {error}") from None
    return path, source


def check_sources(
    folder: ProjectFolder,
    paths: Sequence[Path],
    tried: Sequence[Path],
    options: DryRunOptions,
    log: Log,
) -> tuple[list[tuple[Path, bytes]], dict[str, dict[str, Any]]]:
    """Check sources and run those that are not published yet, without changing anything.

    Returns the sources, and the summaries of their dry runs by SHA-256. Raises FileUnreadable,
    ExperimentMalformed, DryRunFailed.
    """
    sources = [read_source(path) for path in paths]
    try:
        folder.bundles.propose(publish=[source for _, source in sources])
    except (ManifestError, BundlesError) as error:
        raise ExperimentMalformed(str(error)) from None
    known = {bundle.sha256 for bundle in folder.bundles.bundles()}
    new = [(path, source) for path, source in sources if _digest(source) not in known]
    recorded = [run for run in map(read_recorded_run, tried) if run.sha256 not in known]
    shown = dry_run_all(
        new, recorded,
        skip=options.skip, budget_seconds=options.budget_seconds, log=log,
    )  # fmt: skip
    return sources, shown


def read_sweep(path: Path) -> Sequence[Parameters]:
    """Read parameter sets: ``[[set]]`` tables, or a ``[product]`` table of lists to combine.

    ``lr = [0.1, 0.2]`` and ``width = [64]`` in ``[product]`` make two sets. Raises FileUnreadable.
    """
    try:
        table = tomllib.loads(read_text(path, SWEEP_BYTES_MAX))
    except FileProblem as problem:
        raise FileUnreadable(str(problem)) from None
    except (ValueError, RecursionError) as error:  # ValueError: an integer of 5,000 digits too
        raise FileUnreadable(f"{path} is not valid TOML: {error}") from None
    sets = list(table.get("set", []))
    product: list[Parameters] = [{}]
    for name, values in table.get("product", {}).items():
        values = values if isinstance(values, list) else [values]
        product = [{**chosen, name: value} for chosen in product for value in values]
        if len(product) > SWEEP_SETS_MAX:
            raise FileUnreadable(f"{path}: more than {SWEEP_SETS_MAX} parameter sets")
    sets += product if table.get("product") else []
    if unknown := sorted(table.keys() - {"set", "product"}):
        raise FileUnreadable(f"{path}: unknown table {unknown[0]!r}; it has [[set]] and [product]")
    if not sets:
        raise FileUnreadable(f"{path} has no [[set]] and no [product] table; add one")
    return sets


async def publish(
    connection: Connection,
    folder: ProjectFolder,
    sources: Sequence[tuple[Path, bytes]],
    tried: Mapping[str, dict[str, Any]],
    passphrase: str | None,
) -> list[tuple[Published, bool]]:
    """Sign and store each source; the flag says whether it is new.

    A source is signed before it is stored in the database, so hosts can fetch everything that is
    stored. After a crash in between, publishing again completes it. Raises ExperimentMalformed,
    SigningFailed.
    """
    done = []
    try:
        keys = load_keys(folder.keys, passphrase, PUBLISHING_ROLES)
        for path, source in sources:
            try:
                published = folder.bundles.publish(source, keys)
            except (ManifestError, BundlesError) as error:
                raise ExperimentMalformed(f"{path}: {error}") from None
            new = await experiments.record_version(
                connection, published.manifest, published.sha256, tried.get(published.sha256),
                folder.bundles.declarations().get(published.manifest.ref),
            )  # fmt: skip
            done.append((published, new))
    except KeysError as error:
        raise SigningFailed(str(error)) from None
    return done


async def set_state(connection: Connection, name: str, state: str, reason: str) -> int:
    """Retire or resume the latest version of an experiment; returns how many workunits changed.

    Raises ExperimentUnknown.
    """
    every = await experiments.versions(connection)
    wanted = [v for v in every if name in (v.name, v.manifest.ref)]
    if not wanted:
        known = sorted({v.name for v in every})
        raise ExperimentUnknown(
            f"no experiment {name!r} is published; {suggest_names(name, known)}"
        )
    return await experiments.set_state(connection, wanted[-1].version_id, state, reason)


def _digest(source: bytes) -> str:
    return hashlib.sha256(source).hexdigest()


async def publish_and_describe(
    connection: Connection,
    folder: ProjectFolder,
    sources: Sequence[tuple[Path, bytes]],
    tried: Mapping[str, dict[str, Any]],
    passphrase: str | None,
) -> tuple[list[tuple[Published, bool]], dict[str, list[str]]]:
    """As ``publish``, and a description of each new declaration by name@version."""
    done = await publish(connection, folder, sources, tried, passphrase)
    return done, {
        p.manifest.ref: await describe_declaration(connection, folder, p.manifest)
        for p, new in done
        if new
    }


async def describe_declaration(
    connection: Connection, folder: ProjectFolder, manifest: Manifest
) -> list[str]:
    """What a version's declaration changes, and which seeds of other versions were seen before."""
    record = folder.bundles.declarations().get(manifest.ref)
    lines = [f"criteria {record['criteria_sha256'][:16]}"] if record else []
    if record and record["before"]:
        relation = "other criteria than" if record["changes"] else "the same criteria as"
        lines += [f"{relation} {record['before']}", *record["changes"]]
    for version, count, first, last in await experiments.seeds_seen(connection, manifest.name):
        if version != manifest.version:
            lines.append(
                f"seen before: {count} seeds of {version} ({first} to {last}); "
                "this version's seeds begin after them"
            )
    return lines
