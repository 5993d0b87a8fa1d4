"""Runs an experiment once, in the same sandbox as on volunteers' hosts (``axiom-client try``)."""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from axiom_client.decide.task_run import Member, TaskFinished, limits_for
from axiom_client.run import task_folder
from axiom_client.run.pool import Pool
from axiom_client.run.spec import PlacedTask, TaskEvent, TaskProgressed
from axiom_client.sandbox.policy import DriverAccess
from axiom_protocol.given_file import FileProblem, read_bytes
from axiom_protocol.manifest import SCRIPT_BYTES_MAX, Manifest, ManifestError, read_manifest


class TryProblem(Exception):
    """The experiment cannot be started; the message says what to change."""


class TryResult(Struct, frozen=True, kw_only=True):
    """How the run ended and what it was run with. ``finished.result`` has passed the result gate.

    others  how the other seeds of a cohort ended, by seed
    """

    manifest: Manifest
    sha256: str  # of the script
    parameters: dict[str, Any]
    seed: int
    budget_seconds: float
    finished: TaskFinished
    others: dict[int, TaskFinished] = {}


def try_experiment(
    path: Path,
    *,
    seed: int,
    parameters: Mapping[str, Any],
    budget_seconds: float | None = None,
    device: str = "cpu",
    driver: DriverAccess | None = None,
    on_progress: Callable[[float], None] | None = None,
    other_seeds: Sequence[int] = (),
) -> TryResult:
    """Run the script at ``path`` once and return how it ended.

    ``device`` is a torch device; every device but "cpu" needs its ``driver``. With ``other_seeds``
    all seeds run together, by the script's ``run_cohort``.

    The limits are those of a volunteer's host. The run has a new interpreter; its results are
    equal, bit for bit, to those of a task forked from a zygote. Raises TryProblem.
    """
    source, manifest = read_script(path)
    try:
        resolved = manifest.resolve(dict(parameters))
    except ManifestError as error:
        raise TryProblem(f"{path}: {error}") from None
    if other_seeds and manifest.cohort is None:
        raise TryProblem(f"{path} offers no cohorts: it has no [tool.axiom_cohort] table")
    budget = manifest.expected_seconds if budget_seconds is None else budget_seconds
    sha256 = hashlib.sha256(source).hexdigest()
    seeds = 1 + len(other_seeds)
    needs = manifest.cohort.needs(manifest.resources, seeds) if manifest.cohort else None
    folder = tempfile.mkdtemp(prefix="axiom-try-")
    others = [
        Member(task_id=i, seed=s, folder=tempfile.mkdtemp(prefix="axiom-try-"))
        for i, s in enumerate(other_seeds, 1)
    ]
    try:
        spec = PlacedTask(
            task_id=0,
            experiment=manifest.name,
            source_path=str(path),
            sha256=sha256,
            environment=manifest.environment,
            parameters=resolved,
            seed=seed,
            budget_seconds=budget,
            device=device,
            driver=driver,
            limits=limits_for(
                needs or manifest.resources, seeds * max(manifest.expected_seconds, budget)
            ),
            folder=folder,
            others=others,
        )
        finished = asyncio.run(_run_once(spec, on_progress))
    finally:
        for used in (folder, *(member.folder for member in others)):
            task_folder.remove(Path(used))
    return TryResult(
        manifest=manifest,
        sha256=sha256,
        parameters=resolved,
        seed=seed,
        budget_seconds=budget,
        finished=finished[0],
        others={member.seed: finished[member.task_id] for member in others},
    )


def read_script(path: Path) -> tuple[bytes, Manifest]:
    """The bytes of an experiment's file, and its metadata. Raises TryProblem."""
    try:
        source = read_bytes(path, SCRIPT_BYTES_MAX)
        return source, read_manifest(source.decode())
    except FileProblem as problem:
        raise TryProblem(str(problem)) from None
    except UnicodeDecodeError:
        raise TryProblem(f"{path}: the script is not UTF-8 text; save it as UTF-8") from None
    except ManifestError as error:
        raise TryProblem(f"{path}: {error}") from None


def read_parameters(manifest: Manifest, given: list[str]) -> dict[str, Any]:
    """Parse ``name=value`` texts into values of the declared types; lists are comma-separated.

    Raises TryProblem.
    """
    found: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or name not in manifest.parameters:
            known = ", ".join(sorted(manifest.parameters)) or "none"
            raise TryProblem(f"--param {text!r}: write name=value; {manifest.ref} has: {known}")
        default = manifest.parameters[name].default
        try:
            if isinstance(default, list):
                found[name] = [_value(default[0], item) for item in value.split(",")]
            else:
                found[name] = _value(default, value)
        except ValueError:
            raise TryProblem(f"--param {text!r}: {value!r} is not like {default!r}") from None
    return found


def _value(like: object, text: str) -> bool | int | float | str:
    if isinstance(like, bool):
        if text.lower() not in ("true", "false"):
            raise ValueError(text)
        return text.lower() == "true"
    if isinstance(like, int):
        return int(text)
    return float(text) if isinstance(like, float) else text


async def _run_once(
    spec: PlacedTask, on_progress: Callable[[float], None] | None
) -> dict[int, TaskFinished]:
    """How each task of the process ended, by its number."""
    ends: dict[int, TaskFinished] = {}
    all_ended = asyncio.Event()

    def handle(event: TaskEvent) -> None:
        if isinstance(event, TaskFinished):
            ends[event.task_id] = event
            if len(ends) == len(spec.task_ids):
                all_ended.set()
        elif isinstance(event, TaskProgressed) and on_progress is not None:
            on_progress(event.fraction)

    pool = Pool(emit=handle, prefer="cold", background=False)
    try:
        pool.start(spec)
        await all_ended.wait()
        return ends
    finally:
        await pool.close(0)
