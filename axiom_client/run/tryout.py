"""Run an experiment once, in the same sandbox as on volunteers' hosts (``axiom-client try``)."""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from axiom_client.decide.task_run import TaskFinished, limits_for
from axiom_client.run import task_folder
from axiom_client.run.pool import Pool
from axiom_client.run.spec import PlacedTask, TaskEvent, TaskProgressed
from axiom_client.sandbox.policy import DriverAccess
from axiom_protocol.manifest import Manifest, ManifestError, read_manifest


class TryProblem(Exception):
    """The experiment cannot be started; the message says what to change."""


class TryResult(Struct, frozen=True, kw_only=True):
    """How the run ended and what it was run with. ``finished.result`` was checked."""

    manifest: Manifest
    sha256: str  # of the script
    parameters: dict[str, Any]
    seed: int
    budget_seconds: float
    finished: TaskFinished


def try_experiment(
    path: Path,
    *,
    seed: int,
    parameters: Mapping[str, Any],
    budget_seconds: float | None = None,
    device: str = "cpu",
    driver: DriverAccess | None = None,
    on_progress: Callable[[float], None] | None = None,
) -> TryResult:
    """Run the script at ``path`` once and return how it ended.

    ``device`` is a torch device; every device but "cpu" needs its ``driver``.

    The limits are those of a volunteer's host. The run has a new interpreter; its results are
    equal, bit for bit, to those of a task forked from a zygote. Raises TryProblem.
    """
    try:
        source = path.read_bytes()
        manifest = read_manifest(source.decode())
        resolved = manifest.resolve(dict(parameters))
    except (OSError, UnicodeDecodeError, ManifestError) as error:
        raise TryProblem(f"{path}: {error}") from None
    budget = manifest.expected_seconds if budget_seconds is None else budget_seconds
    sha256 = hashlib.sha256(source).hexdigest()
    folder = tempfile.mkdtemp(prefix="axiom-try-")
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
            limits=limits_for(manifest.resources, max(manifest.expected_seconds, budget)),
            folder=folder,
        )
        finished = asyncio.run(_run_once(spec, on_progress))
    finally:
        task_folder.remove(Path(folder))
    return TryResult(
        manifest=manifest,
        sha256=sha256,
        parameters=resolved,
        seed=seed,
        budget_seconds=budget,
        finished=finished,
    )


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


async def _run_once(spec: PlacedTask, on_progress: Callable[[float], None] | None) -> TaskFinished:
    finished: asyncio.Future[TaskFinished] = asyncio.get_running_loop().create_future()

    def handle(event: TaskEvent) -> None:
        if isinstance(event, TaskFinished):
            finished.set_result(event)
        elif isinstance(event, TaskProgressed) and on_progress is not None:
            on_progress(event.fraction)

    pool = Pool(emit=handle, prefer="cold", background=False)
    try:
        pool.start(spec)
        return await finished
    finally:
        await pool.close(0)
