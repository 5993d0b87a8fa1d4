"""Dry runs before publication: two runs of each experiment by `axiom-client try`, in the sandbox.

Both must succeed with the same result, within the time and memory that the metadata declares. Runs
recorded on another machine (`try --json > FILE`) count too, if they are of the same source.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec
from msgspec import Raw, Struct

from axiom_protocol.agreement import disagreements
from axiom_protocol.given_file import FileProblem, read_text
from axiom_protocol.manifest import Manifest
from axiom_server.errors import DryRunFailed, FileUnreadable
from axiom_server.review.log_text import dry_run_summary
from axiom_server.trust.targets import read_bundle

Check = Literal["dry-run", "determinism", "time", "memory", "cohort"]
CHECKS: tuple[Check, ...] = get_args(Check)
RUNS = 2  # so that two results can be compared
SEED = 1
COHORT_SEEDS = (2,)  # computed together with SEED as a cohort, and compared with single runs
COHORT_BUDGET_SECONDS_MAX = 3.0  # of each seed in that comparison
APART_SECONDS = 1.1  # between the starts of two runs, so that clocks show them different seconds
BUDGET_SECONDS_MAX = 10.0  # default for each run: enough for a few training steps of any experiment
START_SECONDS = 20.0  # CPU time to import libraries on a busy machine
CPU_MARGIN = 3.0  # times the budget: machines differ, and a run checks its budget only now and then
WALL_MARGIN = 10.0  # times the budget, as in the agent; a task that takes longer counts as hung
MESSAGE_CHARACTERS_MAX = 400
RECORDED_BYTES_MAX = 64 * 1024 * 1024  # many times the largest result that is accepted

Log = Callable[[str], None]


class CohortMember(Struct, frozen=True, kw_only=True):
    """One of the further seeds of a cohort, as `axiom-client try --json` prints it."""

    seed: int
    outcome: str
    message: str = ""
    result: Raw = Raw(b"null")


class RecordedRun(Struct, frozen=True, kw_only=True):
    """One run, as `axiom-client try --json` prints it."""

    experiment: str
    sha256: str
    seed: int
    budget_seconds: float
    outcome: str
    message: str = ""
    elapsed_seconds: float
    cpu_seconds: float
    peak_memory_bytes: int
    parameters: dict[str, Any] = {}
    result: Raw = Raw(b"null")
    cohort: list[CohortMember] = []


def read_recorded_run(path: Path) -> RecordedRun:
    """Read the output of `axiom-client try --json`. Raises FileUnreadable."""
    try:
        return msgspec.json.decode(read_text(path, RECORDED_BYTES_MAX), type=RecordedRun)
    except FileProblem as problem:
        raise FileUnreadable(str(problem)) from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise FileUnreadable(
            f"{path} is not the output of axiom-client try --json: {error}"
        ) from None


def dry_run_all(
    sources: Sequence[tuple[Path, bytes]],
    recorded: Iterable[RecordedRun],
    *,
    skip: Collection[Check],
    budget_seconds: float | None,
    log: Log,
) -> dict[str, dict[str, Any]]:
    """Run every source that has no recorded runs. Returns summaries for the log, by SHA-256.

    recorded        runs made on other machines
    budget_seconds  of each run; default: as declared, at most BUDGET_SECONDS_MAX
    log             called with each line of progress

    Raises DryRunFailed with everything that is wrong.
    """
    runs = _by_source(sources, recorded)
    made = [] if "dry-run" in skip else _run_missing(sources, runs, skip, budget_seconds, log)
    wrong, summaries = [], {}
    if "cohort" not in skip and "dry-run" not in skip:
        wrong += _cohort_faults(sources, made, budget_seconds, log)
    for path, source in sources:
        manifest, digest = read_bundle(source).manifest, _digest(source)
        if not runs[digest]:
            continue
        if faults := list(_faults(manifest, runs[digest], skip)):
            wrong += [f"{path}: {fault}" for fault in faults]
        summaries[digest] = _summary(manifest, runs[digest], skip)
        log(f"{manifest.ref}: {'REFUSED' if faults else dry_run_summary(summaries[digest])}")
    if wrong:
        raise DryRunFailed("; ".join(wrong))
    return summaries


def _by_source(
    sources: Sequence[tuple[Path, bytes]], recorded: Iterable[RecordedRun]
) -> dict[str, list[RecordedRun]]:
    runs: dict[str, list[RecordedRun]] = {_digest(source): [] for _, source in sources}
    for run in recorded:
        if run.sha256 not in runs:
            raise DryRunFailed(
                f"the recorded run of {run.experiment} is of a different source than the file "
                "given: run axiom-client try on this file"
            )
        runs[run.sha256].append(run)
    return runs


def _run_missing(
    sources: Sequence[tuple[Path, bytes]],
    runs: dict[str, list[RecordedRun]],
    skip: Collection[Check],
    budget_seconds: float | None,
    log: Log,
) -> list[RecordedRun]:
    """Run the sources without recorded runs, as many at a time as there are cores; these runs."""
    wanted = [(path, source) for path, source in sources if not runs[_digest(source)]]
    count = 1 if "determinism" in skip else RUNS
    first: list[_DryRunProcess] = []
    for path, source in wanted:
        manifest = read_bundle(source).manifest
        budget = budget_seconds or min(manifest.expected_seconds, BUDGET_SECONDS_MAX)
        device = "gpu" if manifest.resources.gpus else "cpu"
        first.append(_DryRunProcess(path, budget, device))
        log(f"{manifest.ref}: dry run, {count} x {budget:g} s")
    tries = first + [one.again() for one in first for _ in range(count - 1)]
    pool = ThreadPoolExecutor(max_workers=os.cpu_count() or 1)
    made = []
    try:
        for run in pool.map(_DryRunProcess.run, tries):
            if run.sha256 not in runs:
                raise DryRunFailed(f"{run.experiment} changed during its dry run")
            runs[run.sha256].append(run)
            made.append(run)
    finally:
        for one in tries:
            one.end()
        pool.shutdown(cancel_futures=True)
    return made


def _cohort_faults(
    sources: Sequence[tuple[Path, bytes]],
    made: Sequence[RecordedRun],
    budget_seconds: float | None,
    log: Log,
) -> list[str]:
    """Differences between `run_cohort` and `run`, for each source that defines `run_cohort`.

    made  runs made here before, of which one may be the run that a member is compared with
    """
    faults = []
    for path, source in sources:
        manifest = read_bundle(source).manifest
        if manifest.cohort is not None:
            log(f"{manifest.ref}: {1 + len(COHORT_SEEDS)} seeds together and one by one")
            budget = budget_seconds or min(manifest.expected_seconds, COHORT_BUDGET_SECONDS_MAX)
            known = {
                run.seed: run
                for run in made
                if run.sha256 == _digest(source) and run.budget_seconds == budget
                if not manifest.resources.gpus
            }
            differs = _cohort_differs(path, manifest, budget, known)
            faults += [f"{path}: {fault}" for fault in differs]
    return faults


def _cohort_differs(
    path: Path, manifest: Manifest, budget: float, known: Mapping[int, RecordedRun]
) -> Iterable[str]:
    """``known``: runs of single seeds with this budget on a core, which are not repeated."""
    cohort = _DryRunProcess(path, budget, "cpu", more_seeds=COHORT_SEEDS)
    seeds = (SEED, *COHORT_SEEDS)
    missing = [seed for seed in seeds if seed not in known]
    singles = [_DryRunProcess(path, budget, "cpu", seed=seed) for seed in missing]
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        together, *found = pool.map(_DryRunProcess.run, [cohort, *singles])
    by_seed = {**known, **dict(zip(missing, found, strict=True))}
    alone = [by_seed[seed] for seed in seeds]
    members = [
        CohortMember(
            seed=together.seed, outcome=together.outcome, message=together.message,
            result=together.result,
        ),
        *together.cohort,
    ]  # fmt: skip
    for member, single in zip(members, alone, strict=True):
        yield from _member_faults(manifest, member, single)


def _member_faults(manifest: Manifest, member: CohortMember, alone: RecordedRun) -> Iterable[str]:
    if alone.outcome != "success":
        yield f"seed {alone.seed} ended as {alone.outcome}: {_one_line(alone.message)}"
    elif member.outcome != "success":
        words = _one_line(member.message)
        yield f"run_cohort ended as {member.outcome} for seed {member.seed}: {words}"
    else:
        one, other = (msgspec.json.decode(run.result) for run in (alone, member))
        for line in disagreements(manifest, one, other, limit=1):
            yield f"run_cohort and run disagree on seed {member.seed}: {line}"


class _DryRunProcess:
    """One run of `axiom-client try`, which can be ended early.

    before  an earlier run of the same source; this run starts a second later, because two runs in
            the same second could agree although their results depend on the clock
    """

    def __init__(
        self,
        path: Path,
        budget_seconds: float,
        device: str,
        before: _DryRunProcess | None = None,
        *,
        seed: int = SEED,
        more_seeds: Sequence[int] = (),
    ) -> None:
        self._path = path
        self._arguments = path, budget_seconds, device
        self._before = before
        self._started = threading.Event()
        self._command = [
            *_client(), "try", str(path), "--seed", str(seed), "--budget", str(budget_seconds),
            "--device", device, "--json",
            *(word for other in more_seeds for word in ("--with-seed", str(other))),
        ]  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None
        self._ended = False

    def run(self) -> RecordedRun:
        """Run it and return its record. Raises DryRunFailed when it has none."""
        if self._before is not None:
            self._before._started.wait()
            time.sleep(APART_SECONDS)
        self._started.set()
        if self._ended:
            raise DryRunFailed(f"{self._path} was not run")
        with subprocess.Popen(
            self._command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as self._process:
            out, errors = self._process.communicate()
        try:
            return msgspec.json.decode(out, type=RecordedRun)
        except msgspec.DecodeError:
            words = _one_line(errors.decode(errors="replace").removeprefix("axiom-client: "))
            raise DryRunFailed(
                f"{self._path} could not be run here: {words}; run axiom-client try "
                "--json on another machine and give --tried FILE, or give --skip dry-run"
            ) from None

    def again(self) -> _DryRunProcess:
        """A second run of the same source, to start after this one."""
        return _DryRunProcess(*self._arguments, before=self)

    def end(self) -> None:
        """Stop it if it runs; prevent it from starting otherwise."""
        self._ended = True
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()


def _client() -> list[str]:
    """The command axiom-client: next to this interpreter, or on PATH, or as a module."""
    beside = Path(sys.executable).with_name("axiom-client")
    found = str(beside) if beside.exists() else shutil.which("axiom-client")
    return (
        [found] if found and os.path.isabs(found) else [sys.executable, "-P", "-m", "axiom_client"]
    )


def _faults(
    manifest: Manifest, runs: Sequence[RecordedRun], skip: Collection[Check]
) -> Iterable[str]:
    """Reasons not to publish, one line each."""
    failed = [run for run in runs if run.outcome != "success"]
    if failed:
        yield f"its dry run ended as {failed[0].outcome}: {_one_line(failed[0].message)}"
        return
    if "determinism" not in skip:
        if len(runs) < RUNS:
            yield f"{RUNS} recorded runs are needed to compare their results, or --skip determinism"
        elif len({(run.seed, run.budget_seconds) for run in runs}) > 1:
            yield "its recorded runs are of different seeds or budgets, and cannot be compared"
        elif len({bytes(run.result) for run in runs}) > 1:
            yield f"two runs of seed {runs[0].seed} gave different bytes ({_difference(runs)})"
    needs = manifest.resources
    for run in runs:
        allowed = START_SECONDS + CPU_MARGIN * run.budget_seconds * needs.cpu_cores
        if "time" not in skip and run.cpu_seconds > allowed:
            yield (
                f"it took {run.cpu_seconds:.0f} s of processor time when it was given "
                f"{run.budget_seconds:g} s on {needs.cpu_cores} cores; {allowed:.0f} s are allowed"
            )
        waited = 2 * START_SECONDS + WALL_MARGIN * run.budget_seconds
        if "time" not in skip and run.elapsed_seconds > waited:
            yield f"it took {run.elapsed_seconds:.0f} s when it was given {run.budget_seconds:g} s"
        if "memory" not in skip and run.peak_memory_bytes > needs.memory_bytes:
            yield (
                f"it took {run.peak_memory_bytes / 1e6:.0f} MB and declares "
                f"{needs.memory_bytes / 1e6:.0f}"
            )


def _difference(runs: Sequence[RecordedRun]) -> str:
    """Names of the first fields that differ."""
    first, second = (msgspec.json.decode(run.result) for run in runs[:2])
    differing = [name for name in first if first[name] != second.get(name)]
    return f"{', '.join(differing[:3]) or 'their order'}"


def _summary(
    manifest: Manifest, runs: Sequence[RecordedRun], skip: Collection[Check]
) -> dict[str, Any]:
    return {
        "runs": len(runs),
        "seed": runs[0].seed,
        "budget_seconds": runs[0].budget_seconds,
        "elapsed_seconds": max(run.elapsed_seconds for run in runs),
        "cpu_seconds": max(run.cpu_seconds for run in runs),
        "peak_memory_bytes": max(run.peak_memory_bytes for run in runs),
        "declared_memory_bytes": manifest.resources.memory_bytes,
        "same_bytes": len(runs) >= RUNS and len({bytes(run.result) for run in runs}) == 1,
        "skipped": sorted(skip),
        "result": msgspec.json.decode(runs[0].result),
    }


def _one_line(text: str) -> str:
    """The text on one line; if long, the middle is cut, since a traceback ends with the error."""
    words, half = " ".join(text.split()), MESSAGE_CHARACTERS_MAX // 2
    return words if len(words) <= 2 * half else f"{words[:half]} ... {words[-half:]}"


def _digest(source: bytes) -> str:
    return hashlib.sha256(source).hexdigest()
