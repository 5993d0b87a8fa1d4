"""Runs experiments in the same sandbox as on volunteers' hosts (``axiom-client try``)."""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

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


class Run(Struct, frozen=True, kw_only=True):
    """What is to be run. ``device`` is a torch device; all but "cpu" need their ``driver``.

    budget_seconds  None: as the experiment declares
    other_seeds     run together with ``seed``, by the script's ``run_cohort``
    """

    path: Path
    seed: int
    parameters: Mapping[str, Any] = {}
    budget_seconds: float | None = None
    device: str = "cpu"
    driver: DriverAccess | None = None
    other_seeds: Sequence[int] = ()


class Runner:
    """Runs experiments with the limits of a volunteer's host, several at a time if asked.

    prefer  cold: a new interpreter for each run; warm: forked from one that has the libraries
            where the system can do so. The results are equal, bit for bit.
    """

    def __init__(self, prefer: Literal["cold", "warm"] = "cold") -> None:
        self._pool = Pool(emit=self._handle, prefer=prefer, background=False)
        self._next_id = 0
        self._ends: dict[int, asyncio.Future[TaskFinished]] = {}
        self._on_progress: dict[int, Callable[[float], None]] = {}

    async def run(self, run: Run, on_progress: Callable[[float], None] | None = None) -> TryResult:
        """Run it and return how it ended. Raises TryProblem."""
        source, manifest = read_script(run.path)
        try:
            parameters = manifest.resolve(dict(run.parameters))
        except ManifestError as error:
            raise TryProblem(f"{run.path}: {error}") from None
        if run.other_seeds and manifest.cohort is None:
            raise TryProblem(f"{run.path} offers no cohorts: it has no [tool.axiom_cohort] table")
        budget = manifest.expected_seconds if run.budget_seconds is None else run.budget_seconds
        members = [
            Member(task_id=self._new_id(), seed=seed, folder=tempfile.mkdtemp(prefix="axiom-try-"))
            for seed in (run.seed, *run.other_seeds)
        ]
        seeds = len(members)
        needs = manifest.cohort.needs(manifest.resources, seeds) if manifest.cohort else None
        spec = PlacedTask(
            task_id=members[0].task_id,
            experiment=manifest.name,
            source_path=str(run.path),
            sha256=hashlib.sha256(source).hexdigest(),
            environment=manifest.environment,
            parameters=parameters,
            seed=run.seed,
            budget_seconds=budget,
            device=run.device,
            driver=run.driver,
            limits=limits_for(
                needs or manifest.resources, seeds * max(manifest.expected_seconds, budget)
            ),
            folder=members[0].folder,
            others=members[1:],
        )
        try:
            own, *others = await self._run(spec, on_progress)
        finally:
            for member in members:
                task_folder.remove(Path(member.folder))
        return TryResult(
            manifest=manifest,
            sha256=spec.sha256,
            parameters=parameters,
            seed=run.seed,
            budget_seconds=budget,
            finished=own,
            others=dict(zip(run.other_seeds, others, strict=True)),
        )

    async def close(self) -> None:
        """End every run; no process is left afterwards."""
        await self._pool.close(0)

    async def _run(
        self, spec: PlacedTask, on_progress: Callable[[float], None] | None
    ) -> list[TaskFinished]:
        """How each task of the process ended."""
        loop = asyncio.get_running_loop()
        ends = {task_id: loop.create_future() for task_id in spec.task_ids}
        self._ends |= ends
        if on_progress is not None:
            self._on_progress[spec.task_id] = on_progress
        self._pool.start(spec)
        try:
            await asyncio.wait(ends.values())
        except asyncio.CancelledError:
            self._pool.stop(spec.task_id, 0)
            await asyncio.wait(ends.values())  # only then may its folders be removed
            raise
        finally:
            self._on_progress.pop(spec.task_id, None)
        return [end.result() for end in ends.values()]

    def _handle(self, event: TaskEvent) -> None:
        if isinstance(event, TaskFinished):
            self._ends.pop(event.task_id).set_result(event)
        elif isinstance(event, TaskProgressed) and event.task_id in self._on_progress:
            self._on_progress[event.task_id](event.fraction)

    def _new_id(self) -> int:
        self._next_id += 1
        return self._next_id


def try_experiment(run: Run, on_progress: Callable[[float], None] | None = None) -> TryResult:
    """Run it once, in a new interpreter, and return how it ended. Raises TryProblem."""

    async def run_once() -> TryResult:
        runner = Runner()
        try:
            return await runner.run(run, on_progress)
        finally:
            await runner.close()

    return asyncio.run(run_once())


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
