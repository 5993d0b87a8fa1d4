"""Make runs once, in parallel, and keep them, so that all science tests use the same runs.

A run is kept under .science-runs/ (not in the repository), named by the hash of all that decides
its numbers: the experiment's code, parameters, budget and seed, the processor and its kernels, the
versions of Python, numpy and torch, and the runner. Claims, figures and comments can change without
new runs, because a kept result is checked again by the current metadata. Changed code needs new
runs.

    python -m tests.science                     makes all that `make science` needs, on every core
    python -m tests.science --seeds 6001..6044  the default runs of these seeds (see plan.FRESH)
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from axiom_protocol.manifest import read_manifest
from axiom_protocol.result import Result, gate
from tests.science import twins

ROOT = Path(__file__).parents[2]
KEPT = ROOT / ".science-runs"
RUNNER = ("axiom_client/run/task.py", "axiom_client/run/experiment.py", "tests/science/child.py")
SECONDS_MAX = 1800  # far above the 120 s that an experiment may take, on a crowded machine

#: Processors to imitate: fused multiply-add or not, vectors of 4, 4 and 2 float64.
KERNELS: dict[str, dict[str, str]] = {
    "haswell": {
        "OPENBLAS_CORETYPE": "Haswell",
        "ATEN_CPU_CAPABILITY": "avx2",
        "MKL_CBWR": "AVX2",
    },
    "sandybridge": {"OPENBLAS_CORETYPE": "SandyBridge", "MKL_CBWR": "AVX"},
    "prescott": {
        "OPENBLAS_CORETYPE": "Prescott",
        "ATEN_CPU_CAPABILITY": "default",
        "MKL_CBWR": "COMPATIBLE",
    },
}
_KERNEL_KEYS = {key for kernel in KERNELS.values() for key in kernel}
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """Specification of a run.

    budget_seconds  None: the experiment's own
    twin            how the script is broken on purpose (see ``twins.broken``); None: it is not
    kernel          the processor to imitate, a key of KERNELS; None: the machine's own
    how             state of the process or disk before the run; see ``child.run``
    """

    name: str
    seed: int
    parameters: Mapping[str, Any] = field(default_factory=dict)
    budget_seconds: float | None = None
    twin: str | None = None
    kernel: str | None = None
    how: Literal["cold", "warm", "restored"] = "cold"


@dataclass(frozen=True, kw_only=True)
class Run:
    """A checked result, with its CPU seconds (user and system) and peak resident bytes."""

    result: Result
    cpu_seconds: float
    peak_bytes: int


class RunFailed(Exception):
    """A child ended with an error; the message is the end of its output."""


def run(spec: RunSpec) -> Run:
    """The kept run, or a new one, which is then kept."""
    path = _path(spec)
    if not path.exists():
        stored = json.dumps({"asked": _title(spec), **_in_child(spec)})
        KEPT.mkdir(exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.{id(spec)}")
        partial.write_text(stored)
        os.replace(partial, path)
    return _gated(spec, json.loads(path.read_text()))


def results_in_one_process(specs: Sequence[RunSpec]) -> list[Result]:
    """The results of new runs with the same kernel, which are not kept."""
    [kernel] = {spec.kernel for spec in specs}
    child = subprocess.run(
        [sys.executable, "-m", "tests.science.batch_child"],
        cwd=ROOT, env=_environment(kernel), input=json.dumps([_wanted(spec) for spec in specs]),
        capture_output=True, text=True, timeout=SECONDS_MAX,
    )  # fmt: skip
    if child.returncode:
        raise RunFailed(child.stderr[-2000:])
    found = json.loads(child.stdout)
    return [gate(read_manifest(source(s)), r) for s, r in zip(specs, found, strict=True)]


def _gated(spec: RunSpec, kept: dict[str, Any]) -> Run:
    return Run(
        result=gate(read_manifest(source(spec)), kept["result"]),
        cpu_seconds=kept["cpu_seconds"],
        peak_bytes=kept["peak_bytes"],
    )


def result(name: str, seed: int, **spec: Any) -> Result:
    """The result of one kept run."""
    return run(RunSpec(name=name, seed=seed, **spec)).result


def make(
    wanted: Iterable[RunSpec], tell: Callable[[str], None] = print, *, workers: int | None = None
) -> list[Exception]:
    """Make all runs that are missing, in this order, one child a core or ``workers`` children at a
    time; the failures.
    """
    missing = {key(spec): spec for spec in wanted if not is_kept(spec)}
    failures: list[Exception] = []
    pool = ThreadPoolExecutor(workers or _cores())
    try:
        waiting = {pool.submit(run, spec): spec for spec in missing.values()}
        for done, future in enumerate(as_completed(waiting), start=1):
            spec, error = waiting[future], future.exception()
            if isinstance(error, Exception):
                failures.append(error)
            cost = f"failed: {error}" if error else f"{future.result().cpu_seconds:.1f} s"
            tell(f"{done}/{len(waiting)} {_title(spec)}: {cost}")
    finally:
        pool.shutdown(cancel_futures=True)  # an interruption waits for two runs and not for all
    return failures


def is_kept(spec: RunSpec) -> bool:
    return _path(spec).exists()


def _path(spec: RunSpec) -> Path:
    return KEPT / f"{spec.name}-{key(spec)}.json"


def source(spec: RunSpec) -> str:
    """The script that is run: the library's, or its broken copy."""
    sound = (ROOT / "experiments" / f"{spec.name}.py").read_text()
    return sound + twins.broken(spec.name, spec.twin) if spec.twin else sound


def key(spec: RunSpec) -> str:
    """Hash of all that decides the numbers of a run."""
    facts = [
        _code(source(spec)),
        _task(spec),
        spec.how,
        KERNELS[spec.kernel] if spec.kernel else {},
        _machine(),
    ]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


@cache
def _code(script: str) -> str:
    """The script as its syntax tree, without docstrings: comments and metadata are not in it."""
    tree = ast.parse(script)
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node) is not None:
            node.body.pop(0)
    return ast.dump(tree)


@cache
def _machine() -> list[str]:
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        told = cpuinfo.read_text().splitlines()
        processor += "".join(sorted({s for s in told if s.startswith(("model name", "flags"))}))
    runner = [_code((ROOT / path).read_text()) for path in RUNNER]
    return [processor, sys.version, *map(version, ("numpy", "torch")), *runner]


def _task(spec: RunSpec) -> dict[str, Any]:
    manifest = read_manifest(source(spec))
    budget = manifest.expected_seconds if spec.budget_seconds is None else spec.budget_seconds
    parameters = manifest.resolve(dict(spec.parameters))
    return {"seed": spec.seed, "parameters": parameters, "budget_seconds": budget}


def _in_child(spec: RunSpec) -> dict[str, Any]:
    child = subprocess.run(
        [sys.executable, "-c", MEASURED],
        cwd=ROOT, env=_environment(spec.kernel), input=json.dumps(_wanted(spec)),
        capture_output=True, text=True, timeout=SECONDS_MAX,
    )  # fmt: skip
    if child.returncode:
        raise RunFailed(f"{_title(spec)}: {child.stderr[-2000:]}")
    measured: dict[str, Any] = json.loads(child.stdout)
    return measured


def _environment(kernel: str | None) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if name not in _KERNEL_KEYS}
    return own | ONE_THREAD | (KERNELS[kernel] if kernel else {})


def _wanted(spec: RunSpec) -> dict[str, Any]:
    return {"source": source(spec), "name": spec.name, "task": _task(spec), "how": spec.how}


#: Runs the child and measures its usage, which only the process that waits for it can do.
MEASURED = """
import json, resource, subprocess, sys
child = subprocess.run(
    [sys.executable, "-m", "tests.science.child"], stdin=sys.stdin, stdout=subprocess.PIPE
)
if child.returncode:
    sys.exit(child.returncode)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
unit = 1 if sys.platform == "darwin" else 1024
print(json.dumps({
    "result": json.loads(child.stdout),
    "cpu_seconds": used.ru_utime + used.ru_stime,
    "peak_bytes": used.ru_maxrss * unit,
}))
"""


def _title(spec: RunSpec) -> str:
    extras = (spec.kernel, spec.twin, None if spec.how == "cold" else spec.how)
    small = "" if spec.budget_seconds is None else f" {spec.budget_seconds:g} s"
    return " ".join([spec.name, str(spec.seed), *(e for e in extras if e)]) + small


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
