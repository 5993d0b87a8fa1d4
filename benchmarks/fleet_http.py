"""10,000 and 100,000 simulated hosts over HTTP, against one and two serving processes.

    python -m benchmarks.fleet_http [--hosts 10000,100000] [--processes 1,2]    (make fleet-http)

For each number of hosts and of `axiom-server serve` processes, on embedded PostgreSQL with durable
commits:

    overload   more syncs arrive than can be answered: the rate that is admitted, and how long an
               answer and a refusal take
    steady     70 % of that rate
    beside     the same, while readers load pages without a pause and staff review
    return     the processes have been restarted, and all hosts come at once, as after an outage

The load generator (`fleet_load`) is a process of its own on the same cores, and its processor time
is given. About six minutes; the figures go into benchmarks/RESULTS.md.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import psycopg

from axiom_server.project_folder import ProjectFolder
from benchmarks import load
from benchmarks.fleet_load import Figures, Order, percentiles
from benchmarks.results import machine, table, write_section
from benchmarks.usage import database_process, serving_seconds, tree_seconds

EXPERIMENT = load.ROOT / "tests" / "fixtures" / "experiments" / "short_walk.py"
OVERLOAD_PER_SECOND, OVERLOAD_SECONDS = 4_000.0, 10.0
STEADY_SHARE, STEADY_SECONDS = 0.7, 10.0
RETURN_SECONDS = 90.0  # an aim is 60; what is not back by then is counted as never
QUEUED_PER_HOST = 3
READERS = 2
PAGES = ("/", "/leaders", "/experiments", "/hosts/1000", "/users/1000", "/sessions", "/status")

HOSTS = """
INSERT INTO users (user_id, name, account_key, created_at, validated, agreeing)
SELECT 1000 + i, 'volunteer ' || i, sha256(('key' || i)::bytea), now() - interval '90 days', 1000,
       10
FROM generate_series(0, {hosts} / 5) i;
INSERT INTO hosts (host_id, user_id, name, token, cpu_cores, memory_bytes, environments,
                   last_seen_at, agreements)
SELECT 1000 + i, 1000 + i / 5, 'host ' || i, sha256(('bench-' || i)::bytea), 1,
       1::bigint << 34, '{{numpy,torch}}', now() - interval '1 hour', 1000
FROM generate_series(0, {hosts} - 1) i;
"""


@dataclass(kw_only=True)
class Cell:
    """The figures for one number of hosts and of processes.

    used   processor seconds of the serving processes, PostgreSQL and the generator, per 1,000
           answers, of each step
    """

    hosts: int
    processes: int
    overload: Figures
    steady: Figures
    beside: Figures
    returned: Figures
    used: dict[str, tuple[float, float, float]]
    pages_ms: list[float] = field(default_factory=list)
    review_seconds: float = 0.0


class Generator:
    """The load generator's process."""

    def __init__(self, hosts: int, ports: Sequence[int]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.fleet_load", str(hosts), *map(str, ports)],
            env={**os.environ, "PYTHONPATH": str(load.ROOT)},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def execute(self, order: Order) -> Figures:
        """Have an order carried out."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(msgspec.json.encode(order) + b"\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the load generator has ended")
        return msgspec.json.decode(line, type=Figures)

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=30)


def populate(folder: Path, hosts: int) -> None:
    """Add trusted hosts of old accounts, and work for them."""
    with cluster_of(folder) as conninfo, psycopg.connect(conninfo, autocommit=True) as db:
        db.execute(HOSTS.format(hosts=hosts).encode())
        load.staff(folder, "deploy", "short_walk", "--count", str(QUEUED_PER_HOST * hosts))
        db.execute("VACUUM ANALYZE")


@contextmanager
def cluster_of(folder: Path) -> Iterator[str]:
    """The project's PostgreSQL, running; gives its conninfo."""
    cluster = ProjectFolder(folder).embedded()
    try:
        yield cluster.open()
    finally:
        cluster.close()


@contextmanager
def serving(folder: Path, processes: int) -> Iterator[list[int]]:
    """Run serving processes; gives their ports."""
    with ExitStack() as stack:
        yield [stack.enter_context(load.serving(folder)) for _ in range(processes)]


@contextmanager
def readers(port: int) -> Iterator[list[float]]:
    """Load pages without a pause meanwhile; gives the milliseconds of each."""
    took: list[float] = []
    stop = threading.Event()

    def read(offset: int) -> None:
        number = offset
        while not stop.is_set():
            began = time.perf_counter()
            url = f"http://127.0.0.1:{port}{PAGES[number % len(PAGES)]}"
            with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=60) as answer:
                answer.read()
                took.append(1000 * (time.perf_counter() - began))
            number += 1

    threads = [threading.Thread(target=read, args=(i,)) for i in range(READERS)]
    for thread in threads:
        thread.start()
    try:
        yield took
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def measure(folder: Path, hosts: int, processes: int) -> Cell:
    """All steps for one number of hosts and of processes."""
    used: dict[str, tuple[float, float, float]] = {}

    def step(name: str, generator: Generator, order: Order) -> Figures:
        database = database_process(folder)
        before = serving_seconds(), tree_seconds(database)
        figures = generator.execute(order)
        after = serving_seconds(), tree_seconds(database)
        thousands = max(figures.answered, 1) / 1000
        used[name] = (
            (after[0] - before[0]) / thousands, (after[1] - before[1]) / thousands,
            figures.cpu_seconds / thousands,
        )  # fmt: skip
        print(f"{hosts:>7,} hosts, {processes} processes, {name}: {figures}", flush=True)
        return figures

    with serving(folder, processes) as ports:
        generator = Generator(hosts, ports)
        overload = step(
            "overload", generator, Order(rate=OVERLOAD_PER_SECOND, seconds=OVERLOAD_SECONDS)
        )
        rate = STEADY_SHARE * overload.in_time / OVERLOAD_SECONDS
        calm = Order(rate=rate, seconds=STEADY_SECONDS)
        time.sleep(2)
        steady = step("steady", generator, calm)
        with readers(ports[0]) as pages_ms, reviewing(folder) as review_seconds:
            beside = step("beside", generator, calm)
        generator.close()
    with serving(folder, processes) as ports:  # restarted: nothing is in their caches
        generator = Generator(hosts, ports)
        returned = step("return", generator, Order(seconds=RETURN_SECONDS))
        generator.close()
    return Cell(
        hosts=hosts, processes=processes, overload=overload, steady=steady, beside=beside,
        returned=returned, used=used, pages_ms=percentiles(pages_ms),
        review_seconds=review_seconds[0] if review_seconds else 0.0,
    )  # fmt: skip


@contextmanager
def reviewing(folder: Path) -> Iterator[list[float]]:
    """Staff review meanwhile; gives its seconds."""
    took: list[float] = []

    def review() -> None:
        began = time.monotonic()
        load.staff(folder, "review")
        took.append(time.monotonic() - began)

    thread = threading.Thread(target=review)
    thread.start()
    try:
        yield took
    finally:
        thread.join()


def _milliseconds(values: Sequence[float]) -> str:
    return " / ".join(f"{value:,.0f}" for value in values) or "-"


def _seconds(values: Sequence[float]) -> str:
    return " / ".join(f"{value:,.1f}" for value in values) or "-"


def _costs(cell: Cell, name: str) -> str:
    return " + ".join(f"{seconds:.2f}" for seconds in cell.used[name])


def _rates(figures: Figures, seconds: float) -> list[str]:
    return [f"{count / seconds:,.0f}" for count in (figures.in_time, figures.refused)]


EXPLANATION = """
Latencies are percentiles 50 / 90 / 99 / 100. Costs are processor seconds for 1,000 answers: of the
serving processes + of PostgreSQL + of the load generator, which shares the cores. Each sync reports
one task and is granted one, on a connection of its own. Overload offers {overload:,.0f} syncs a
second (or what the generator manages); refused hosts are told when to come back, and obey. Steady
is {share:.0%} of the admitted rate; "beside" adds {readers} readers that load pages without a pause
and a review. Return: the serving processes have just been restarted, and all hosts come at once.
"""


def section(where: str, cells: Sequence[Cell]) -> str:
    """The section of RESULTS.md."""
    columns = [f"{c.hosts:,} hosts, {c.processes} serve" for c in cells]
    rows: list[tuple[str, list[str]]] = [
        ("overload: admitted a second",
         [_rates(c.overload, OVERLOAD_SECONDS)[0] for c in cells]),
        ("overload: refused a second", [_rates(c.overload, OVERLOAD_SECONDS)[1] for c in cells]),
        ("overload: answer, ms", [_milliseconds(c.overload.answer_ms) for c in cells]),
        ("overload: refusal, ms", [_milliseconds(c.overload.refusal_ms) for c in cells]),
        ("overload: cost", [_costs(c, "overload") for c in cells]),
        ("steady: answered a second", [_rates(c.steady, STEADY_SECONDS)[0] for c in cells]),
        ("steady: answer, ms", [_milliseconds(c.steady.answer_ms) for c in cells]),
        ("steady: cost", [_costs(c, "steady") for c in cells]),
        ("beside pages and a review: answer, ms",
         [_milliseconds(c.beside.answer_ms) for c in cells]),
        ("pages meanwhile, ms", [_milliseconds(c.pages_ms) for c in cells]),
        ("review meanwhile, s", [f"{c.review_seconds:.1f}" for c in cells]),
        ("return: all answered after, s",
         [f"{c.returned.seconds:.1f}" if not c.returned.never else f"{c.returned.never:,} not in "
          f"{RETURN_SECONDS:.0f}" for c in cells]),
        ("return: until a host is answered, s",
         [_seconds(c.returned.return_seconds) for c in cells]),
        ("return: most refusals of one host", [str(c.returned.refusals_max) for c in cells]),
        ("return: failed connections", [f"{c.returned.failed:,}" for c in cells]),
        ("return: cost", [_costs(c, "return") for c in cells]),
    ]  # fmt: skip
    explained = EXPLANATION.format(
        overload=OVERLOAD_PER_SECOND, share=STEADY_SHARE, readers=READERS
    )
    body = table(["", *columns], [[label, *values] for label, values in rows])
    return f"## A fleet over HTTP\n\n`make fleet-http`\n\n{where}\n{explained}\n{body}"


def main() -> None:
    """Measure every combination, and write the section."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--hosts", default="10000,100000")
    parser.add_argument("--processes", default="1,2")
    given = parser.parse_args()
    os.environ.pop("AXIOM_DATABASE_URL", None)
    numbers = [int(number) for number in given.hosts.split(",")]
    where = machine()
    cells = []
    with load.project() as folder:
        config = folder / "project.toml"
        config.write_text(
            config.read_text().replace("[limits]", '[limits]\nproxies = ["127.0.0.0/8"]\n#', 1)
        )
        load.staff(folder, "publish", "--skip", "dry-run", str(EXPERIMENT))
        populate(folder, max(numbers))
        for processes in map(int, given.processes.split(",")):
            cells += [measure(folder, hosts, processes) for hosts in numbers]
    cells.sort(key=lambda cell: (cell.hosts, cell.processes))
    write_section("fleet", section(where, cells))


if __name__ == "__main__":
    main()
