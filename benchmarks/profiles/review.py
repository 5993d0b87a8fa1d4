"""Where the time of a review goes, with many results of many hosts."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from axiom_server.cli.shared import collect_garbage_less_often
from axiom_server.project_folder import initialise
from axiom_server.publish.deploy import Order, execute_order
from axiom_server.publish.publish import publish, read_source
from axiom_server.review import review
from axiom_server.store import credit, session_sums, sessions
from axiom_server.store.database import Connection, connect
from benchmarks import load
from benchmarks.results import table
from benchmarks.usage import database_process, tree_seconds

EXPERIMENT = load.ROOT / "tests" / "fixtures" / "experiments" / "short_walk.py"
HOSTS_PER_RESULT = 0.01
TOGETHER = "together, with the commit"

#: Tasks as a sync leaves them, with their results; written by SQL since only reviews are measured.
DATA = """
INSERT INTO users (user_id, name) SELECT 1000 + i, 'user ' || i
FROM generate_series(0, {hosts} / 5) i;
INSERT INTO hosts (host_id, user_id, name, cpu_cores, last_seen_at, pending)
SELECT 1000 + i, 1000 + i / 5, 'host ' || i, 8, now(), {results} / {hosts}
FROM generate_series(0, {hosts} - 1) i;
INSERT INTO workunits (workunit_id, version_id, parameters_id, seed, deployment_id, device)
SELECT 100000000 + i, (SELECT max(version_id) FROM versions),
       (SELECT min(parameters_id) FROM parameter_sets), 100000000 + i,
       (SELECT min(deployment_id) FROM deployments), 'cpu'
FROM generate_series(0, {results} - 1) i;
INSERT INTO tasks (task_id, workunit_id, experiment_id, version_id, host_id, user_id, state,
                   granted_at, deadline_at, ended_at, outcome, claimed_seconds, elapsed_seconds,
                   cpu_seconds)
SELECT 100000000 + i, 100000000 + i, (SELECT max(experiment_id) FROM experiments),
       (SELECT max(version_id) FROM versions), 1000 + i % {hosts}, 1000 + (i % {hosts}) / 5,
       'reported', now(), now(), now(), 'success', 200, 200, 200
FROM generate_series(0, {results} - 1) i;
INSERT INTO results (task_id, workunit_id, version_id, valid, digest, result, validated)
SELECT task_id, workunit_id, version_id, 1, sha256(task_id::text::bytea), jsonb_build_object(
    'valid', 1, 'configs_done', 3, 'exponent', 0.5 + 0.02 * random()), true
FROM tasks WHERE task_id >= 100000000;
"""

STEPS: tuple[tuple[ModuleType, str, str], ...] = (
    (credit, "to_review", "read and lock the reported tasks"),
    (review, "decide", "decide the credit"),
    (credit, "append", "append to the ledger, sums of the session"),
    (credit, "update_owners", "lock hosts and users, update their totals"),
    (credit, "mark_reviewed", "mark tasks as reviewed"),
    (review, "judge_and_record", "judge the findings"),
    (sessions, "save_record", "save the record"),
    (session_sums, "add_deployments", "sums of the session's page"),
    (review, "session_log", "make the session log"),
)


class Spent:
    """Wall and processor seconds of this process, by step."""

    def __init__(self) -> None:
        self.wall: dict[str, float] = {}
        self.cpu: dict[str, float] = {}

    @contextmanager
    def step(self, label: str) -> Iterator[None]:
        """Count what is spent inside."""
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            self.wall[label] = self.wall.get(label, 0.0) + time.perf_counter() - wall
            self.cpu[label] = self.cpu.get(label, 0.0) + time.process_time() - cpu

    def timing(self, function: Callable[..., Any], label: str) -> Callable[..., Any]:
        """The function, counted as a step."""

        def plain(*given: Any, **named: Any) -> Any:
            with self.step(label):
                return function(*given, **named)

        async def waiting(*given: Any, **named: Any) -> Any:
            with self.step(label):
                return await function(*given, **named)

        return waiting if asyncio.iscoroutinefunction(function) else plain


@contextmanager
def timed() -> Iterator[Spent]:
    """Count what each step of a review spends meanwhile."""
    spent, replaced = Spent(), []
    for module, name, label in STEPS:
        function = getattr(module, name)
        replaced.append((module, name, function))
        setattr(module, name, spent.timing(function, label))
    try:
        yield spent
    finally:
        for module, name, function in replaced:
            setattr(module, name, function)


async def measure(results: int) -> tuple[float, Spent]:
    """Processor seconds of PostgreSQL, and what each step spends, of a review."""
    with tempfile.TemporaryDirectory(prefix="axiom-bench-") as name:
        folder = initialise(Path(name) / "p", "bench", None)
        with folder.database() as conninfo:
            async with connect(conninfo) as connection:
                await connection.set_autocommit(True)
                config = folder.config()
                await publish(connection, folder, [read_source(EXPERIMENT)], {}, None)
                order = Order(names=["short_walk"], count=10)
                await execute_order(connection, order, config.deploy, config.standing)
                hosts = max(10, int(results * HOSTS_PER_RESULT))
                await connection.execute(DATA.format(results=results, hosts=hosts).encode())
                await connection.execute("VACUUM ANALYZE")
                return await _review(connection, folder.path, config)


async def _review(connection: Connection, folder: Path, config: Any) -> tuple[float, Spent]:
    database = database_process(folder)
    before = tree_seconds(database)
    with timed() as spent, spent.step(TOGETHER):
        async with connection.transaction():
            await review.review(connection, config)
    return tree_seconds(database) - before, spent


def tables(results: int) -> str:
    """The table in Markdown."""
    os.environ.pop("AXIOM_DATABASE_URL", None)
    collect_garbage_less_often()  # as the command does
    database, spent = asyncio.run(measure(results))
    order = sorted(spent.wall, key=lambda label: (label == TOGETHER, -spent.wall[label]))
    rows = [
        [label, f"{spent.wall[label]:.2f}", f"{spent.cpu[label]:.2f}",
         f"{1e6 * spent.wall[label] / results:.1f}"] for label in order
    ]  # fmt: skip
    rows.append(["processor time of PostgreSQL", f"{database:.2f}", "-",
                 f"{1e6 * database / results:.1f}"])  # fmt: skip
    return table([f"a review of {results:,} results", "s", "s of CPU here", "µs a result"], rows)
