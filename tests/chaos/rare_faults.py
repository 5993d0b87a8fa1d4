"""Faults that hit several programs or files at once, or a command or a migration half-way."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Callable
from contextlib import suppress

import psutil
import psycopg

from axiom_server.errors import ServerError
from tests.chaos import older_schema
from tests.chaos.faults import LOSSES_SECONDS, Heal, Run, fault, one_of
from tests.chaos.site import Agent, Site

DOWNGRADE_TRIES = 20
POWER_SECONDS = 45.0  # between two power cuts; without, commands never come to their end
EARLIER_REVISIONS = ("0008", "0009")  # they differ from the newest by what a review sums up again


@fault
def stop_postmaster(run: Run) -> Heal | None:
    """New connections wait; those that exist go on."""
    master = run.site.postmaster()
    return one_of(run, [master] if master else [], signal.SIGSTOP)


@fault
def kill_keeper(run: Run) -> Heal | None:
    """Kill the process that stops an embedded PostgreSQL when nobody uses it."""
    return one_of(run, _keepers(run.site), signal.SIGKILL)


def _keepers(site: Site) -> list[psutil.Process]:
    return [p for p in site.processes() if any(w.endswith("/keeper.py") for w in _words(p))]


def _words(process: psutil.Process) -> list[str]:
    with suppress(psutil.Error):
        return list(process.cmdline())
    return []


@fault
def kill_fetch(run: Run) -> Heal | None:
    """Kill a child that an agent has besides its zygotes: it fetches or tries something."""
    found = [p for a in run.site.agents for p in _other_children(a)]
    return one_of(run, found, signal.SIGKILL)


def _other_children(agent: Agent) -> list[psutil.Process]:
    zygotes = set(agent.zygotes())
    return [p for p in agent.children() if p not in zygotes]


@fault
def cut_power(run: Run) -> Heal | None:
    """kill -9 everything at once: agents, servers, PostgreSQL, and commands of staff."""
    if time.monotonic() < run.power_until:
        return None
    run.power_until = time.monotonic() + POWER_SECONDS
    found = run.site.processes()
    for process in found:
        _send(process, signal.SIGSTOP)  # so that none sees another one die
    for process in found:
        _send(process, signal.SIGKILL)
    return Heal(run.seconds(0.5, 3), run.restart_postgres)


def _send(process: psutil.Process, number: signal.Signals) -> None:
    with suppress(psutil.NoSuchProcess):
        process.send_signal(number)


@fault
def drop_cache(run: Run) -> Heal | None:
    """Remove all that an agent has fetched, metadata too, or damage every file of it."""
    agent = run.rng.choice(run.site.agents)
    damage = run.rng.random() < 0.5
    for path in [p for p in (agent.state / "bundles").rglob("*") if p.is_file()]:
        with suppress(OSError):
            path.write_bytes(run.rng.randbytes(40)) if damage else path.unlink()
    return Heal()


@fault
def drop_task_folders(run: Run) -> Heal | None:
    """Remove the folders of an agent's tasks while they run."""
    agent = run.rng.choice(run.site.agents)
    folders = [path for path in (agent.state / "tasks").glob("*") if path.is_dir()]
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    return Heal() if folders else None


@fault
def lose_journal(run: Run) -> Heal | None:
    """Remove an agent's journal while it does not run: it has forgotten all."""
    if (agent := run.agent("lose_journal")) is None:
        return None
    agent.kill()
    agent.forgot_at.append(time.time())
    agent.ignore_losses(2 * LOSSES_SECONDS)
    for path in agent.state.glob("journal.sqlite*"):
        path.unlink()
    agent.start()
    agent.busy = ""
    return Heal()


@fault
def freeze_hosts(run: Run) -> Heal | None:
    """Stop every agent with all its processes, longer than a connection lasts."""
    agents = [agent for agent in run.site.agents if agent.alive and not agent.busy]
    found = [process for agent in agents for process in _with_children(agent)]
    for agent in agents:
        agent.busy = "freeze_hosts"
        agent.ignore_losses(LOSSES_SECONDS)
    for process in found:
        _send(process, signal.SIGSTOP)

    def heal() -> None:
        for process in found:
            _send(process, signal.SIGCONT)
        for agent in agents:
            agent.busy = ""

    return Heal(run.seconds(5, 20), heal) if agents else None


def _with_children(agent: Agent) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        if agent.alive and agent.program.process is not None:
            first = psutil.Process(agent.program.process.pid)
            return [first, *first.children(recursive=True)]
    return []


@fault
def kill_command(run: Run) -> Heal | None:
    """kill -9 a command of staff at some moment; then the same command must succeed."""
    role = run.rng.choice(["targets", "snapshot", "timestamp", "root"])
    after = run.seconds(0.2, 5)
    words = run.rng.choice([
        ("review", "--json"), ("keys", "rotate", role), ("deploy", "brief_walk", "--count", "4"),
        (),
    ])  # fmt: skip

    def work() -> None:
        if words:
            run.site.interrupt(after, *words)
            run.site.staff_does(*words)
        else:
            run.site.publish("brief_walk", interrupted_after=after)

    return Heal() if run.staff(work) else None


@fault
def upgrade_schema(run: Run) -> Heal | None:
    """Stop the servers, put the data into an earlier schema, and start the servers again."""
    revision = run.rng.choice(EARLIER_REVISIONS)
    return Heal() if run.staff(lambda: _upgrade(run.site, revision)) else None


def _upgrade(site: Site, revision: str) -> None:
    site.end_servers()
    try:
        for process in site.processes():  # what the servers left behind would see both schemas
            if "axiom_server.cli.app" in _words(process):
                _send(process, signal.SIGKILL)
        _repeat(lambda: _downgrade(site, revision))
        for server in site.servers:
            site.start_server(server)
    finally:
        site.servers_stand_still = False


def _downgrade(site: Site, revision: str) -> None:
    site.open_postgres()  # no server does
    try:
        older_schema.downgrade(site.conninfo, revision)
    finally:
        site.release_postgres()


def _repeat(work: Callable[[], None]) -> None:
    """Until it succeeds: the database may be down, or its disk full."""
    for tries_left in reversed(range(DOWNGRADE_TRIES)):
        try:
            return work()
        except (psycopg.Error, ServerError) as error:
            if not tries_left:
                raise AssertionError(f"the schema cannot be changed: {error}") from None
            time.sleep(1)
    return None
