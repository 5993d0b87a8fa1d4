"""Faults that people cause: an operator at the database, volunteers at their agents."""

from __future__ import annotations

import time
from contextlib import suppress

import psycopg

from tests.chaos.faults import REPLAYED_SECONDS, Heal, Run, fault

TABLES = ("comparisons", "hosts", "queue", "results", "tasks", "users", "workunits")
MODES = ("ACCESS EXCLUSIVE", "SHARE ROW EXCLUSIVE", "SHARE")


def _by_operator(run: Run, *statements: str, hold_seconds: float = 0.0) -> Heal:
    """Execute SQL in the background, and keep its locks for a while."""

    def work() -> None:
        with (
            suppress(psycopg.Error),  # the database may be down
            psycopg.connect(run.site.conninfo, connect_timeout=2) as connection,
        ):
            connection.execute("SET lock_timeout = '20s'")
            for statement in statements:
                connection.execute(statement)
            time.sleep(hold_seconds)

    run.people.submit(work)
    return Heal()


@fault
def lock_table(run: Run) -> Heal | None:
    """Lock a whole table for seconds, as a change of its columns does."""
    table, mode = run.rng.choice(TABLES), run.rng.choice(MODES)
    return _by_operator(run, f"LOCK TABLE {table} IN {mode} MODE", hold_seconds=run.seconds(0.5, 9))


@fault
def lock_everybody(run: Run) -> Heal | None:
    """Lock every host and every user, as a long statement does."""
    return _by_operator(
        run, "SELECT FROM hosts FOR UPDATE", "SELECT FROM users FOR UPDATE",
        hold_seconds=run.seconds(0.5, 9),
    )  # fmt: skip


@fault
def end_connections(run: Run) -> Heal | None:
    """End every other connection to the database."""
    return _by_operator(
        run,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )


@fault
def change_config(run: Run) -> Heal | None:
    """Change a limit of an agent, and set it back."""
    agent = run.rng.choice(run.site.agents)
    run.people.submit(run.site.ask, agent.program, "config", "set", "memory.share", "1%")

    def heal() -> None:
        run.people.submit(run.site.ask, agent.program, "config", "set", "memory.share", "75%")

    return Heal(run.seconds(2, 8), heal)


@fault
def switch_mode(run: Run) -> Heal | None:
    """Switch an agent into a mode with half of its cores or none, and out of it."""
    agent = run.rng.choice(run.site.agents)
    share = run.rng.choice(["50%", "0%"])
    run.people.submit(run.site.ask, agent.program, "mode", "quiet", "--share", share)

    def heal() -> None:
        run.people.submit(run.site.ask, agent.program, "mode", "off")

    return Heal(run.seconds(2, 8), heal)


@fault
def abort_task(run: Run) -> Heal | None:
    """Cancel a task that an agent holds."""
    agent = run.rng.choice(run.site.agents)
    held = "SELECT task_id FROM tasks WHERE state = 'leased' AND host_id = %s"
    try:
        tasks = run.site.rows(held, agent.host_id, seconds=0)
    except psycopg.Error:
        return None
    if not tasks:
        return None
    (task_id,) = run.rng.choice(tasks)
    agent.ignore_losses(REPLAYED_SECONDS)
    run.people.submit(run.site.ask, agent.program, "task", "abort", str(task_id))
    return Heal()


@fault
def start_again(run: Run) -> Heal | None:
    """Start a second agent in the folder of one that runs: it must refuse."""
    agents = [agent for agent in run.site.agents if agent.alive and not agent.busy]
    if not agents:
        return None
    agent = run.rng.choice(agents)
    first = agent.program.process

    def work() -> None:
        second = run.site.ask(agent.program, "run", "--no-display", "--seconds", "1")
        if second.returncode == 0 and first is not None and first.poll() is None:
            run.breaches.append(f"a second {agent.name} ran beside the first")

    run.people.submit(work)
    return Heal()
