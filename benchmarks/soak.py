"""An hour at full load: does anything grow that must not? Memory, descriptors, threads, disk, logs.

    python -m benchmarks.soak [--minutes 60]      (make soak MINUTES=60)

A real server on embedded PostgreSQL and a real agent compute no-ops and small training tasks with
no pause; staff deploy more when the queue gets short, and review every minute. Every few seconds
all is sampled from outside. After a third of the time (caches are full then), the slope of each
series is estimated by Theil and Sen: where the whole 95 % interval of its growth in an hour is
above what is allowed, the run fails. What each credited result may add to the database and to the
agent's log (a line for each task) is bounded apart. Ends with a line of JSON, and with status 1 if
anything grew. A run of 20 minutes or more is written to RESULTS.md.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
import psycopg
from psycopg.rows import TupleRow
from scipy.stats import theilslopes

from axiom_server.project_folder import ProjectFolder
from benchmarks import load
from benchmarks.agent_idle import agent_environment, stop
from benchmarks.common import report
from benchmarks.peers.tasks import experiment_source
from benchmarks.results import machine, table, write_section
from benchmarks.usage import database_process

WORKS = ("noop", "torch_training")
QUEUE_MIN, DEPLOYED = 3_000, 5_000  # workunits of each kind: enough for some samples
MINUTES_MIN = 20.0  # a shorter run says nothing, and is not written to RESULTS.md
SAMPLES = 240  # in a run, at least SAMPLE_SECONDS_MIN apart
SAMPLE_SECONDS_MIN = 2.0
REVIEW_SECONDS = 60.0
WARM_SHARE = 1 / 3  # of the run; it is left out of the slopes

#: Series -> the growth in an hour that is allowed. A leak of one item a task is thousands.
ALLOWED = {
    "agent MiB": 4.0, "agent descriptors": 4.0, "agent threads": 2.0, "agent disk MiB": 20.0,
    "server MiB": 16.0, "server descriptors": 8.0, "server threads": 2.0,
    "database MiB of memory": 64.0, "database processes": 4.0,
    "dead rows": 50_000.0, "server log KiB": 256.0,
}  # fmt: skip
RESULTS_MIN = 1_000  # credited after the warm part; fewer say nothing about the database
RESULT_BYTES_MAX = 6_000.0  # of the database for each credited result, with indexes and free space
LOG_BYTES_MAX = 100.0  # of the agent's log for each credited result

DEAD_ROWS = "SELECT COALESCE(sum(n_dead_tup), 0)::float8 FROM pg_stat_user_tables"
COUNTS = """SELECT (SELECT count(*) FROM queue), (SELECT count(*) FROM credit),
                   pg_database_size(current_database())"""

Series = dict[str, list[tuple[float, float]]]


class Soak:
    """The run: its processes, and what was sampled."""

    def __init__(self, folder: Path, scratch: Path, agent: int, server: int) -> None:
        self.series: Series = defaultdict(list)
        self.results: list[tuple[float, float]] = []  # (credited results, bytes of the database)
        self._folder = folder
        self._scratch = scratch
        self._agent = psutil.Process(agent)
        self._server = psutil.Process(server)
        self._began = time.monotonic()
        self._reviewed = self._began

    def step(self, database: psycopg.Connection[TupleRow]) -> None:
        """Sample, then deploy and review if it is time."""
        queued, credited, size = database.execute(COUNTS).fetchone() or (0, 0, 0)
        self.results.append((float(credited), float(size)))
        for name, value in self._sample(database).items():
            self.series[name].append((time.monotonic() - self._began, value))
        if queued < QUEUE_MIN * len(WORKS):
            for work in WORKS:
                load.staff(self._folder, "deploy", work, "--count", str(DEPLOYED), "--budget", "1")
        if time.monotonic() - self._reviewed > REVIEW_SECONDS:
            load.staff(self._folder, "review")
            self._reviewed = time.monotonic()

    def _sample(self, database: psycopg.Connection[TupleRow]) -> dict[str, float]:
        postmaster = database_process(self._folder)
        agent_files = [p for p in (self._scratch / "agent").rglob("*") if p.is_file()]
        (dead,) = database.execute(DEAD_ROWS).fetchone() or (0.0,)
        return {
            **_process("agent", self._agent),
            **_process("server", self._server),
            "agent disk MiB": sum(map(_size, agent_files)) / 2**20,
            "database MiB of memory": _tree_mib(postmaster),
            "database processes": float(len(postmaster.children())),
            "dead rows": float(dead),
            "agent log KiB": _size(self._scratch / "agent.log") / 1024,
            "server log KiB": _size(self._scratch / "server.log") / 1024,
        }


def _process(name: str, process: psutil.Process) -> dict[str, float]:
    """The program itself, without its tasks: they come and go."""
    return {
        f"{name} MiB": anonymous_bytes(process.pid) / 2**20,
        f"{name} descriptors": float(process.num_fds()),
        f"{name} threads": float(process.num_threads()),
    }


def _tree_mib(root: psutil.Process) -> float:
    total = 0
    for process in [root, *root.children(recursive=True)]:
        with contextlib.suppress(OSError, RuntimeError):
            total += anonymous_bytes(process.pid)
    return total / 2**20


def anonymous_bytes(pid: int) -> int:
    """What a process has written into its memory, in RAM or swapped out.

    Pages of files are left out: the kernel drops and reads them as it likes, and others share them.
    """
    fields = (line.split() for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines())
    return 1024 * sum(int(f[1]) for f in fields if f[0] in ("Pss_Anon:", "SwapPss:"))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def growth_in_an_hour(points: list[tuple[float, float]]) -> tuple[float, float]:
    """The estimate of a series' growth in an hour, and the lower end of its 95 % interval."""
    warm = points[int(len(points) * WARM_SHARE) :]
    slope, _, low, _ = theilslopes([v for _, v in warm], [t for t, _ in warm])
    return 3600 * float(slope), 3600 * float(low)


def bytes_per_result(results: list[tuple[float, float]]) -> float | None:
    """What a credited result adds to the database, after the warm part; None: too few to say."""
    warm = results[int(len(results) * WARM_SHARE) :]
    credited = warm[-1][0] - warm[0][0]
    return (warm[-1][1] - warm[0][1]) / credited if credited >= RESULTS_MIN else None


def log_bytes_per_result(run: Soak) -> float | None:
    """What the agent's log holds for each credited result; None: too few to say."""
    credited = run.results[-1][0]
    size = 1024 * run.series["agent log KiB"][-1][1]
    return size / credited if credited >= RESULTS_MIN else None


@contextmanager
def running(folder: Path, scratch: Path) -> Iterator[Soak]:
    """The server and an agent, with their logs in files."""
    port = load.free_port()
    with (scratch / "server.log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "axiom_server.cli.app", "serve", "--port", str(port)],
            env=load.environment(folder), stdout=log, stderr=log,
        )  # fmt: skip
    agent: subprocess.Popen[bytes] | None = None
    try:
        load.wait_ready(port)
        environment = agent_environment(scratch / "agent")
        line = [sys.executable, "-m", "axiom_client"]
        join = [*line, "attach", f"http://127.0.0.1:{port}"]
        load.join_and_vouch(folder, join, environment)
        with (scratch / "agent.log").open("wb") as log:
            agent = subprocess.Popen(
                [*line, "run", "--no-display"], env=environment, stdout=log, stderr=log
            )
        yield Soak(folder, scratch, agent.pid, server.pid)
    finally:
        if agent is not None:
            stop(agent)
        stop(server)


def soak(minutes: float) -> Soak:
    """Run for so long."""
    with load.project() as folder, tempfile.TemporaryDirectory(prefix="axiom-soak-") as name:
        scratch = Path(name)
        scripts = [scratch / f"{work}.py" for work in WORKS]
        for work, path in zip(WORKS, scripts, strict=True):
            path.write_text(experiment_source(work))
        load.staff(folder, "publish", "--skip", "dry-run", *map(str, scripts))
        for work in WORKS:
            load.staff(folder, "deploy", work, "--count", str(DEPLOYED), "--budget", "1")
        with running(folder, scratch) as run:
            conninfo = ProjectFolder(folder).embedded().conninfo
            until = time.monotonic() + 60 * minutes
            pause = max(SAMPLE_SECONDS_MIN, 60 * minutes / SAMPLES)
            with psycopg.connect(conninfo, autocommit=True) as database:
                while time.monotonic() < until:
                    run.step(database)
                    time.sleep(pause)
    return run


def section(where: str, minutes: float, rows: Sequence[Sequence[str]], grew: list[str]) -> str:
    """The text for RESULTS.md."""
    header = ["", "first", "1/4", "1/2", "3/4", "last", "growth an hour", "at least", "allowed"]
    found = f"grew by more: {', '.join(grew)}" if grew else "nothing grew by more"
    return f"""## Soak

`make soak MINUTES={minutes:g}`

{where}

A real server on PostgreSQL and a real agent at full load with no-ops and small training tasks, with
a review every minute. The slope is Theil and Sen's, after the first third of the run; "at least" is
the lower end of its 95 % interval, which must not be above what is allowed: **{found}**. Memory is
what a process has written into it, without pages of files; the agent's and the server's are those
of the program itself.

{table(header, rows)}
"""


def main() -> None:
    """Run, test the slopes, and write the section of RESULTS.md after a run that says something."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60.0)
    minutes = parser.parse_args().minutes
    where = machine()
    run = soak(minutes)
    rows, grew = [], []
    for name, points in run.series.items():
        estimate, low = growth_in_an_hour(points)
        quarters = [points[(len(points) - 1) * i // 4][1] for i in range(5)]
        allowed = f"{ALLOWED[name]:,.0f}" if name in ALLOWED else "by result"
        rows.append([name, *(f"{value:,.1f}" for value in (*quarters, estimate, low)), allowed])
        if low > ALLOWED.get(name, math.inf):
            grew.append(name)
    database, log = bytes_per_result(run.results), log_bytes_per_result(run)
    for name, found, allowed_bytes in (
        ("database", database, RESULT_BYTES_MAX),
        ("agent log", log, LOG_BYTES_MAX),
    ):
        shown = "too few results" if found is None else f"{found:,.0f}"
        rows.append([f"{name}, bytes a result", *[""] * 5, shown, "", f"{allowed_bytes:,.0f}"])
        if found is not None and found > allowed_bytes:
            grew.append(name)
    text = section(where, minutes, rows, grew)
    print(text)
    if minutes >= MINUTES_MIN:
        write_section("soak", text)
    report(
        "soak",
        {
            "credited": run.results[-1][0],
            "database_bytes_per_result": database,
            "log_bytes_per_result": log,
            "grew": grew,
        },
        {
            "allowed_in_an_hour": ALLOWED,
            "database_bytes_per_result": RESULT_BYTES_MAX,
            "log_bytes_per_result": LOG_BYTES_MAX,
        },
    )
    sys.exit(bool(grew))


if __name__ == "__main__":
    main()
