"""Dry runs before publication: two runs of each experiment by `axiom-client`, in the sandbox.

Both must succeed with the same result, within the time and memory that the metadata declares. Runs
recorded on another machine (`try --json > FILE`) count too, if they are of the same source.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from axiom_protocol.agreement import disagreements
from axiom_protocol.given_file import FileProblem, read_text
from axiom_protocol.manifest import Manifest
from axiom_protocol.try_requests import TryAnswer, TryRequest
from axiom_server.errors import DryRunFailed, FileUnreadable
from axiom_server.review.log_text import dry_run_summary
from axiom_server.trust.targets import read_bundle

Check = Literal["dry-run", "determinism", "time", "memory", "cohort"]
CHECKS: tuple[Check, ...] = get_args(Check)
RUNS = 2  # so that two results can be compared
SEED = 1
COHORT_SEEDS = (2,)  # computed together with SEED as a cohort, and compared with single runs
COHORT_BUDGET_SECONDS_MAX = 3.0  # of each seed in that comparison
BUDGET_SECONDS_MAX = 10.0  # default for each run: enough for a few training steps of any experiment
START_SECONDS = 20.0  # CPU time to import libraries on a busy machine
CPU_MARGIN = 3.0  # times the budget: machines differ, and a run checks its budget only now and then
WALL_MARGIN = 10.0  # times the budget, as in the agent; a task that takes longer counts as hung
STOP_SECONDS = 10.0  # for the runs to end after an interrupt
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
    wrong, summaries = [], {}
    if "dry-run" not in skip:
        plan = _Plan(budget_seconds, log)
        missing = [(path, source) for path, source in sources if not runs[_digest(source)]]
        repeats = plan.single_runs(missing, again="determinism" not in skip)
        cohorts = plan.cohorts([] if "cohort" in skip else sources)
        made = _make(plan.requests)
        for digest, numbers in repeats.items():
            runs[digest] += [made[number] for number in numbers]
            if {run.sha256 for run in runs[digest]} != {digest}:
                raise DryRunFailed(f"{runs[digest][0].experiment} changed during its dry run")
        for cohort in cohorts:
            wrong += [f"{cohort.path}: {fault}" for fault in cohort.faults(made)]
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


class _Cohort(Struct, frozen=True):
    """A cohort of COHORT_SEEDS and SEED, and single runs of the same seeds, by their numbers."""

    path: Path
    manifest: Manifest
    together: int
    alone: list[int]

    def faults(self, made: Mapping[int, RecordedRun]) -> Iterable[str]:
        """Differences between `run_cohort` and `run`."""
        first = made[self.together]
        members = [
            CohortMember(
                seed=first.seed, outcome=first.outcome, message=first.message, result=first.result
            ),
            *first.cohort,
        ]
        for member, number in zip(members, self.alone, strict=True):
            yield from _member_faults(self.manifest, member, made[number])


class _Plan:
    """The runs that are made here, in the order in which they start."""

    def __init__(self, budget_seconds: float | None, log: Log) -> None:
        self._budget_seconds, self._log = budget_seconds, log
        self.requests: list[TryRequest] = []

    def single_runs(
        self, sources: Sequence[tuple[Path, bytes]], *, again: bool
    ) -> dict[str, list[int]]:
        """Add a run of each source in a new interpreter, and, if ``again``, one in a shared one.

        Hosts run a task in either way. Returns the numbers of these runs by the source's digest.
        """
        numbers: dict[str, list[int]] = {}
        for path, source in sources:
            manifest = read_bundle(source).manifest
            budget = self._budget(manifest, BUDGET_SECONDS_MAX)
            device = "gpu" if manifest.resources.gpus else "cpu"
            request = TryRequest(
                path=str(path), seed=SEED, budget_seconds=budget, device=device, fresh=True
            )
            numbers[_digest(source)] = [self._add(request)]
            self._log(f"{manifest.ref}: dry run, {RUNS if again else 1} x {budget:g} s")
        for same in numbers.values() if again else ():
            first = self.requests[same[0]]
            fresh = first.device != "cpu"
            same.append(self._add(replace(first, fresh=fresh, after=same[0])))
        return numbers

    def cohorts(self, sources: Sequence[tuple[Path, bytes]]) -> list[_Cohort]:
        """Add a cohort and its seeds one by one, for each source that defines `run_cohort`."""
        cohorts = []
        for path, source in sources:
            manifest = read_bundle(source).manifest
            if manifest.cohort is None:
                continue
            self._log(f"{manifest.ref}: {1 + len(COHORT_SEEDS)} seeds together and one by one")
            budget = self._budget(manifest, COHORT_BUDGET_SECONDS_MAX)
            one = TryRequest(path=str(path), seed=SEED, budget_seconds=budget)
            together = self._add(replace(one, other_seeds=COHORT_SEEDS))
            alone = [self._known(replace(one, seed=seed)) for seed in (SEED, *COHORT_SEEDS)]
            cohorts.append(_Cohort(path, manifest, together, alone))
        return cohorts

    def _budget(self, manifest: Manifest, most: float) -> float:
        return self._budget_seconds or min(manifest.expected_seconds, most)

    def _add(self, request: TryRequest) -> int:
        self.requests.append(request)
        return len(self.requests) - 1

    def _known(self, request: TryRequest) -> int:
        """The number of such a run, which is added if there is none, fresh or not."""
        for number, other in enumerate(self.requests):
            if replace(other, fresh=request.fresh, after=None) == request:
                return number
        return self._add(request)


def _make(requests: Sequence[TryRequest]) -> dict[int, RecordedRun]:
    """Make these runs with `axiom-client try-many`: their records by number. Raises DryRunFailed.

    As many run at a time as there are cores.
    """
    if not requests:
        return {}
    output, errors = _try_many(requests)
    try:
        answers = [msgspec.json.decode(line, type=TryAnswer) for line in output.splitlines()]
        made = {a.number: msgspec.json.decode(a.run, type=RecordedRun) for a in answers}
    except msgspec.DecodeError:
        made = {}
    if len(made) < len(requests):
        words = _one_line(errors.decode(errors="replace").removeprefix("axiom-client: "))
        raise DryRunFailed(
            f"the dry runs could not be made here: {words}; run axiom-client try --json on another "
            "machine and give --tried FILE, or give --skip dry-run"
        )
    return made


def _try_many(requests: Sequence[TryRequest]) -> tuple[bytes, bytes]:
    """What the command printed, as output and as errors.

    It is in a process group of its own: an interrupt comes to it once, from here, and it is given
    time to end its runs and to remove their folders.
    """
    command = subprocess.Popen(
        [*_client(), "try-many"], process_group=0,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        return command.communicate(msgspec.json.encode(requests))
    except KeyboardInterrupt:
        command.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            command.wait(STOP_SECONDS)
        command.kill()
        raise


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
