"""Measures the memory, CPU time and wakeups of an idle agent, and how soon it answers.

    python -m benchmarks.agent_idle [--minutes 3]

A real server on embedded PostgreSQL has no work for an attached agent. The agent first runs until
it has ended its zygote, which takes over two minutes; then the measurement begins. For comparison,
Debian's boinc-client if it is installed (without a project) and a Dask worker with its nanny (extra
`bench`, without the scheduler) are measured in the same minutes. All figures are of whole process
trees: PSS from smaps_rollup, CPU time and voluntary context switches from /proc.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from axiom_client.control.server import request_snapshot
from axiom_client.errors import AxiomError
from benchmarks import load
from benchmarks.common import report

SETTLE_SECONDS = 150.0  # the zygote ends after two minutes without a task, the fetcher before
READY_ROUNDS = 5
READY_SECONDS_MAX = 60.0
LIMITS = {"pss_mib": 45, "cpu_seconds_per_minute": 0.1, "wakeups_per_second": 0.5,
          "ready_seconds": 1.0}  # fmt: skip


class Usage:
    """What a tree of processes has used since it started."""

    def __init__(self, root: int) -> None:
        process = psutil.Process(root)
        self.tree = [process, *process.children(recursive=True)]
        self.at = time.monotonic()
        self.cpu_seconds = sum(sum(p.cpu_times()[:2]) for p in self.tree)
        self.switches = sum(p.num_ctx_switches().voluntary for p in self.tree)


def compare(before: Usage, after: Usage) -> dict[str, Any]:
    """The figures between two samples. Raises RuntimeError if the processes are not the same."""
    if {p.pid for p in before.tree} != {p.pid for p in after.tree}:
        raise RuntimeError(f"processes started or ended: {before.tree} {after.tree}")
    seconds = after.at - before.at
    return {
        "pss_mib": round(sum(pss_bytes(p.pid) for p in after.tree) / 2**20, 1),
        "cpu_seconds_per_minute": round(60 * (after.cpu_seconds - before.cpu_seconds) / seconds, 4),
        "wakeups_per_second": round((after.switches - before.switches) / seconds, 3),
        "processes": len(after.tree),
    }


def pss_bytes(pid: int) -> int:
    """The proportional set size (PSS) of a process: its share of the memory that it maps."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no Pss of process {pid}")


# --- the programs that are measured ---------------------------------------------------------------


def agent_environment(folder: Path) -> dict[str, str]:
    """The environment of an agent with all its files in ``folder``."""
    return {**os.environ, "AXIOM_CLIENT_DIR": str(folder), "PYTHONPATH": str(load.ROOT)}


def start_agent(folder: Path) -> tuple[subprocess.Popen[bytes], float]:
    """A running agent, and the seconds until it answered a request for its snapshot."""
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "axiom_client", "run", "--no-display"],
        env=agent_environment(folder),
        stdout=subprocess.DEVNULL,
    )
    while True:
        with contextlib.suppress(AxiomError):
            request_snapshot(folder / "state" / "control.sock")
            return process, time.monotonic() - started
        if process.poll() is not None or time.monotonic() > started + READY_SECONDS_MAX:
            raise RuntimeError("the agent does not answer")
        time.sleep(0.005)


def stop(process: subprocess.Popen[bytes], number: int = signal.SIGTERM) -> None:
    """End a process by a signal, or kill it after a minute."""
    process.send_signal(number)
    try:
        process.wait(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextlib.contextmanager
def boinc(folder: Path) -> Iterator[int | None]:
    """The process id of a BOINC client without a project; None if BOINC is not installed."""
    program = shutil.which("boinc")
    if program is None:
        yield None
        return
    folder.mkdir()
    process = subprocess.Popen(
        [program, "--dir", str(folder), "--no_gui_rpc"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process.pid
    finally:
        stop(process)


@contextlib.contextmanager
def dask_worker(folder: Path) -> Iterator[int | None]:
    """The process id of a Dask worker with its nanny; None without the extra `bench`."""
    if importlib.util.find_spec("distributed") is None:
        yield None
        return
    port = load.free_port()
    address = f"tcp://127.0.0.1:{port}"
    dask = [sys.executable, "-m", "dask"]
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    scheduler = subprocess.Popen(
        [*dask, "scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard"], **quiet
    )
    worker = subprocess.Popen(
        [*dask, "worker", address, "--nanny", "--no-dashboard", "--nthreads", "1",
         "--nworkers", "1", "--local-directory", str(folder)],
        **quiet,
    )  # fmt: skip
    try:
        yield worker.pid
    finally:
        stop(worker, signal.SIGINT)
        stop(scheduler, signal.SIGINT)


# --- the measurement ------------------------------------------------------------------------------


def ready_seconds(folder: Path) -> list[float]:
    """Seconds from the command to the first answer, of several starts, sorted."""
    found = []
    for _ in range(READY_ROUNDS):
        process, seconds = start_agent(folder)
        stop(process)
        found.append(seconds)
    return sorted(found)


def measure(settle_seconds: float, seconds: float) -> tuple[dict[str, Any], dict[str, Any]]:
    """The figures of the agent, and those of the other programs by name."""
    with (
        tempfile.TemporaryDirectory(prefix="axiom-bench-idle-") as scratch,
        load.project() as project,
        load.serving(project) as port,
    ):
        folder = Path(scratch) / "agent"
        subprocess.run(
            [sys.executable, "-m", "axiom_client", "attach", f"http://127.0.0.1:{port}"],
            env=agent_environment(folder), check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        starts = ready_seconds(folder)
        agent, _ = start_agent(folder)
        try:
            with (
                boinc(Path(scratch) / "boinc") as client,
                dask_worker(Path(scratch) / "dask") as worker,
            ):
                time.sleep(settle_seconds)
                pids = {"axiom": agent.pid, "boinc": client, "dask": worker}
                before = {name: Usage(pid) for name, pid in pids.items() if pid is not None}
                time.sleep(seconds)
                after = {name: Usage(before[name].tree[0].pid) for name in before}
                figures = {name: compare(before[name], after[name]) for name in before}
        finally:
            stop(agent)
    own = figures.pop("axiom")
    own["ready_seconds"] = round(starts[len(starts) // 2], 3)
    own["ready_seconds_all"] = [round(value, 3) for value in starts]
    return own, figures


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=3.0, help="length of the measurement")
    parser.add_argument("--settle", type=float, default=SETTLE_SECONDS, help="seconds before it")
    arguments = parser.parse_args()
    own, others = measure(arguments.settle, 60 * arguments.minutes)
    names = {"boinc": "Debian's boinc-client, no project", "dask": "Dask worker with its nanny"}
    if "dask" in others:
        others["dask"]["version"] = importlib.metadata.version("distributed")
    baseline = {key: {"name": names[key], **value} for key, value in others.items()}
    held = {key: own[key] <= limit for key, limit in LIMITS.items()}
    report(
        "agent_idle",
        {**own, "limits": LIMITS, "held": held, "load_average": os.getloadavg()[0]},
        baseline,
    )


if __name__ == "__main__":
    main()
