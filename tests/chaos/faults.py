"""The faults: each is a function that injects a fault into a run and returns how to undo it.

A fault that is not possible at the moment returns None, and another one is drawn instead. Actions
that take long (commands of staff) go through ``Run.staff_queue``, so that faults can overlap.
"""

from __future__ import annotations

import random
import shutil
import signal
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field

import psutil

from tests.chaos import disk
from tests.chaos.proxy import LinkFault, Trouble
from tests.chaos.site import Agent, Site, sockets

LOSSES_SECONDS = 120.0  # after a fault that makes an agent forget, or a server take work back
REPLAYED_SECONDS = 30.0


def _nothing() -> None:
    return None


@dataclass
class Heal:
    """A function that undoes a fault, and after how many seconds to call it; by default nothing."""

    after: float = 0.0
    do: Callable[[], None] = _nothing


@dataclass
class Run:
    """A site under faults."""

    site: Site
    rng: random.Random
    staff_queue: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))
    people: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(4))
    operator: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))
    staff_pending: list[Future[None]] = field(default_factory=list)
    breaches: list[str] = field(default_factory=list)
    clones: int = 0
    restores: int = 0
    power_until: float = 0.0  # monotonic; no power cut before

    def staff(self, work: Callable[[], None]) -> bool:
        """Run a staff action in the background; False when too many are waiting already."""
        self.staff_pending = [f for f in self.staff_pending if not _done(f)]
        if len(self.staff_pending) > 1:
            return False
        self.staff_pending.append(self.staff_queue.submit(self._noted, work))
        return True

    def restart_postgres(self) -> None:
        """Start it again in the background: it may have to wait for what other faults stopped."""
        self.operator.submit(self.site.restart_postgres)

    def _noted(self, work: Callable[[], None]) -> None:
        try:
            work()
        except AssertionError as error:
            self.breaches.append(str(error))

    def agent(self, fault: str) -> Agent | None:
        """An agent without a fault; it is marked as being under this one."""
        free = [a for a in self.site.agents if not a.busy and a.alive]
        if not free:
            return None
        chosen = self.rng.choice(free)
        chosen.busy = fault
        return chosen

    def seconds(self, least: float, most: float) -> float:
        """A duration."""
        return self.rng.uniform(least, most)


def _done(future: Future[None]) -> bool:
    """Whether the future has ended; raises its exception, if any."""
    if future.done():
        future.result()
    return future.done()


Fault = Callable[[Run], Heal | None]
FAULTS: dict[str, Fault] = {}


def fault(function: Fault) -> Fault:
    """Register a function as a fault."""
    FAULTS[function.__name__] = function
    return function


# --- processes ------------------------------------------------------------------------------------


def _freed(agent: Agent, do: Callable[[], None] | None = None) -> Callable[[], None]:
    def heal() -> None:
        if do is not None:
            do()
        agent.busy = ""

    return heal


@fault
def kill_agent(run: Run) -> Heal | None:
    """kill -9, and a new start soon after."""
    if (agent := run.agent("kill_agent")) is None:
        return None
    agent.kill()
    return Heal(run.seconds(0, 3), _freed(agent, agent.start))


@fault
def restart_agent(run: Run) -> Heal | None:
    """SIGTERM, and a new start when it has ended."""
    if (agent := run.agent("restart_agent")) is None:
        return None
    assert agent.program.process is not None
    agent.wanted = False
    agent.program.process.send_signal(signal.SIGTERM)

    def again() -> None:
        agent.program.stop()
        agent.start()

    return Heal(run.seconds(3, 8), _freed(agent, again))


@fault
def stop_agent(run: Run) -> Heal | None:
    """SIGSTOP, then SIGCONT: as when a laptop is closed, or a container is frozen."""
    if (agent := run.agent("stop_agent")) is None:
        return None
    assert agent.program.process is not None
    process = psutil.Process(agent.program.process.pid)
    _signal(process, signal.SIGSTOP)
    return Heal(run.seconds(1, 10), _freed(agent, lambda: _signal(process, signal.SIGCONT)))


@fault
def kill_zygote(run: Run) -> Heal | None:
    """All its tasks die with it."""
    return one_of(run, [z for a in run.site.agents for z in a.zygotes()], signal.SIGKILL)


@fault
def stop_zygote(run: Run) -> Heal | None:
    """Stop a zygote, which then forks no tasks for a while."""
    return one_of(run, [z for a in run.site.agents for z in a.zygotes()], signal.SIGSTOP)


@fault
def kill_task(run: Run) -> Heal | None:
    """Kill a task, as the system does when memory runs out."""
    return one_of(run, [t for a in run.site.agents for t in a.tasks()], signal.SIGKILL)


@fault
def stop_task(run: Run) -> Heal | None:
    """Stop a task with SIGSTOP, and continue it later."""
    return one_of(run, [t for a in run.site.agents for t in a.tasks()], signal.SIGSTOP)


@fault
def kill_server(run: Run) -> Heal | None:
    """kill -9, and a new start soon after."""
    server = run.rng.choice(run.site.servers)
    if run.site.servers_stand_still or server.process is None or server.process.poll() is not None:
        return None
    server.kill()
    return Heal()  # Site.keep_services starts it again


@fault
def restart_server(run: Run) -> Heal | None:
    """SIGTERM: a new release is put in place."""
    server = run.rng.choice(run.site.servers)
    if run.site.servers_stand_still or server.process is None or server.process.poll() is not None:
        return None
    server.process.send_signal(signal.SIGTERM)
    return Heal()


@fault
def stop_server(run: Run) -> Heal | None:
    """Stop the server process with SIGSTOP, whatever it is doing."""
    server = run.rng.choice(run.site.servers)
    if server.process is None or server.process.poll() is not None:
        return None
    for agent in run.site.agents:
        agent.ignore_losses(REPLAYED_SECONDS)
    return one_of(run, [psutil.Process(server.process.pid)], signal.SIGSTOP, 12)


@fault
def kill_backend(run: Run) -> Heal | None:
    """PostgreSQL then ends every other connection too, and recovers."""
    return one_of(run, run.site.backends(), signal.SIGKILL)


@fault
def stop_backend(run: Run) -> Heal | None:
    """A transaction that holds its locks for seconds."""
    return one_of(run, run.site.backends(), signal.SIGSTOP)


@fault
def kill_postmaster(run: Run) -> Heal | None:
    """Kill PostgreSQL's first process; PostgreSQL is down until it is started again."""
    master = run.site.postmaster()
    return one_of(run, [master] if master else [], signal.SIGKILL)


@fault
def kill_database(run: Run) -> Heal | None:
    """Every process of PostgreSQL at once: what was not written to the disk is lost."""
    master = run.site.postmaster()
    if master is None:
        return None
    with suppress(psutil.Error):
        for process in (master, *master.children()):
            _signal(process, signal.SIGSTOP)  # so that none sees another one die
        for process in (*master.children(), master):
            _signal(process, signal.SIGKILL)
    return Heal(run.seconds(0.5, 2), run.restart_postgres)


def one_of(
    run: Run, found: list[psutil.Process], number: signal.Signals, most_seconds: float = 6
) -> Heal | None:
    """Send a signal to one of these processes; a stopped one is continued."""
    if not found:
        return None
    victim = run.rng.choice(sorted(found, key=lambda p: p.pid))
    _signal(victim, number)
    if number == signal.SIGSTOP:
        return Heal(run.seconds(0.5, most_seconds), lambda: _signal(victim, signal.SIGCONT))
    return Heal(run.seconds(0.5, 2), run.restart_postgres)


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    with suppress(psutil.NoSuchProcess):
        process.send_signal(number)


# --- network --------------------------------------------------------------------------------------


def _network(trouble: Trouble, *, loses_tasks: bool = False) -> Fault:
    def disturb(run: Run) -> Heal | None:
        everybody = run.rng.random() < 0.2
        agents = run.site.agents if everybody else [run.rng.choice(run.site.agents)]
        link_fault = LinkFault(trouble, run.rng.uniform(0.4, 1.0))
        for agent in agents:
            agent.link.fault = link_fault
            if loses_tasks:
                agent.ignore_losses(REPLAYED_SECONDS)

        def clear() -> None:
            for agent in agents:
                if agent.link.fault is link_fault:
                    agent.link.fault = LinkFault()

        return Heal(run.seconds(2, 10), clear)

    disturb.__name__ = f"net_{trouble}"
    disturb.__doc__ = f"Requests and answers: {trouble}."
    return fault(disturb)


for _trouble in (
    "delay", "cut_request", "cut_answer", "truncate", "half_close", "duplicate", "replay",
    "status_502", "html", "nonsense", "refuse",
):  # fmt: skip
    _network(_trouble, loses_tasks=_trouble == "replay")  # type: ignore[arg-type]


# --- storage --------------------------------------------------------------------------------------


@fault
def fill_agent_disk(run: Run) -> Heal | None:
    """Fill the disk of an agent."""
    if not disk.may_mount() or (agent := run.agent("fill_agent_disk")) is None:
        return None
    folder = agent.program.folder
    agent.busy = ""  # it may end of that, and is started again until there is room
    disk.fill(folder)
    return Heal(run.seconds(2, 8), lambda: disk.free(folder))


@fault
def fill_server_disk(run: Run) -> Heal | None:
    """Fill the disk of the project and its database."""
    if not disk.may_mount():
        return None
    disk.fill(run.site.project_disk)

    def heal() -> None:
        disk.free(run.site.project_disk)
        run.restart_postgres()

    return Heal(run.seconds(2, 6), heal)


@fault
def make_journal_read_only(run: Run) -> Heal | None:
    """Make a journal read-only: the agent reports it and ends; afterwards it is started again."""
    if not disk.may_mount() or (agent := run.agent("make_journal_read_only")) is None:
        return None
    journal = agent.state / "journal.sqlite"
    agent.kill()
    disk.make_read_only(journal)
    agent.start()

    def heal() -> None:
        agent.kill()
        disk.make_writable(journal)
        agent.start()

    return Heal(run.seconds(3, 6), _freed(agent, heal))


@fault
def tear_journal_tail(run: Run) -> Heal | None:
    """Cut the end of the journal's log, as after a power cut."""
    if (agent := run.agent("tear_journal_tail")) is None:
        return None
    agent.kill()
    agent.ignore_losses(LOSSES_SECONDS)
    agent.forgot_at.append(time.time())
    _tear(agent, "journal.sqlite-wal", run.rng)
    return Heal(run.seconds(0, 2), _freed(agent, agent.start))


@fault
def tear_journal(run: Run) -> Heal | None:
    """Damage the journal file: overwrite its beginning, and cut it in the middle of a page."""
    if (agent := run.agent("tear_journal")) is None:
        return None
    agent.kill()
    agent.ignore_losses(LOSSES_SECONDS)
    agent.forgot_at.append(time.time())
    with suppress(OSError, sqlite3.Error):
        sqlite3.connect(agent.state / "journal.sqlite").close()
    _tear(agent, "journal.sqlite", run.rng)
    with (agent.state / "journal.sqlite").open("r+b") as file:
        file.write(run.rng.randbytes(64))
    return Heal(run.seconds(0, 2), _freed(agent, agent.start))


def _tear(agent: Agent, name: str, rng: random.Random) -> None:
    path = agent.state / name
    with suppress(FileNotFoundError), path.open("r+b") as file:
        size = path.stat().st_size
        file.truncate(max(0, size - rng.randrange(1, max(2, size // 2))))


@fault
def drop_bundles(run: Run) -> Heal | None:
    """Delete the bundles that an agent has cached."""
    agent = run.rng.choice(run.site.agents)
    for path in list((agent.state / "bundles").rglob("*.py")):
        path.unlink(missing_ok=True)
    return Heal()


# --- clocks ---------------------------------------------------------------------------------------


@fault
def step_clock(run: Run) -> Heal | None:
    """Change an agent's time of day by seconds or days, and correct it later."""
    agent = run.rng.choice(run.site.agents)
    agent.clock.write_text(str(run.rng.choice([-86400 * 3, -3600, -5, 5, 3600, 86400 * 3])))
    return Heal(run.seconds(2, 12), lambda: _set_right(agent))


def _set_right(agent: Agent) -> None:
    agent.clock.write_text("0")


# --- staff and volunteers -------------------------------------------------------------------------


@fault
def review_twice(run: Run) -> Heal | None:
    """Run two reviews at the same time."""

    def work() -> None:
        with ThreadPoolExecutor(2) as both:
            list(both.map(lambda _: run.site.staff_does("review", "--json"), range(2)))

    return Heal() if run.staff(work) else None


@fault
def publish_anew(run: Run) -> Heal | None:
    """Publish the next version of an experiment while the current one is being computed."""
    name = run.rng.choice(["brief_walk", "long_walk"])
    return Heal() if run.staff(lambda: run.site.publish(name)) else None


@fault
def withdraw_and_publish(run: Run) -> Heal | None:
    """Withdraw a version while it is being computed, and publish another one."""
    name = run.rng.choice(["brief_walk", "long_walk"])

    def work() -> None:
        version = f"{name}@1.0.{run.site.patches[name]}"
        run.site.retired.add(version)
        run.site.staff_does("withdraw", version)
        run.site.publish(name)

    return Heal() if run.staff(work) else None


@fault
def quarantine(run: Run) -> Heal | None:
    """Quarantine a host, and release it."""
    if (agent := run.agent("quarantine")) is None:
        return None
    agent.busy = ""
    agent.ignore_losses(2 * LOSSES_SECONDS)

    def work() -> None:
        run.site.staff_does("host", "quarantine", str(agent.host_id))
        time.sleep(4)
        run.site.staff_does("host", "release", str(agent.host_id))
        agent.ignore_losses(LOSSES_SECONDS)

    return Heal() if run.staff(work) else None


@fault
def rotate_keys(run: Run) -> Heal | None:
    """Rotate signing keys; agents must follow."""
    role = run.rng.choice(["targets", "snapshot", "timestamp", "root"])
    done = run.staff(lambda: _ignore(run.site.staff_does("keys", "rotate", role)))
    return Heal() if done else None


def _ignore(_said: str) -> None:
    return None


@fault
def pause_agent(run: Run) -> Heal | None:
    """Pause an agent and resume it, or drain it."""
    if (agent := run.agent("pause_agent")) is None:
        return None
    run.people.submit(run.site.ask, agent.program, run.rng.choice(["pause", "drain"]))

    def resume() -> None:
        run.people.submit(run.site.ask, agent.program, "resume")

    return Heal(run.seconds(2, 6), _freed(agent, resume))


@fault
def clone_agent(run: Run) -> Heal | None:
    """Copy an agent's folder, as in a disk image: two agents then have one identity."""
    if run.clones or (agent := run.agent("clone_agent")) is None:
        return None
    run.clones += 1
    agent.kill()
    agent.ignore_losses(3600)
    folder = run.site.root / f"{agent.name}-copy" / "home"
    disk.mount(folder, "96m")
    shutil.copytree(agent.program.folder, folder, symlinks=True, dirs_exist_ok=True, ignore=sockets)
    copy = run.site.add_agent(f"{agent.name}-copy", folder)
    copy.link, copy.host_id = agent.link, agent.host_id
    copy.ignore_losses(3600)
    agent.start()
    copy.start()
    run.site.agents.append(copy)
    return Heal(0, _freed(agent))


@fault
def restore_backup(run: Run) -> Heal | None:
    """Restore the project from a backup of some seconds ago, as when its machine is lost."""
    if run.restores:
        return None
    run.restores += 1
    file = run.site.root / "backup.tar.gz"

    def work() -> None:
        begun_at = time.time()
        run.site.staff_does("backup", str(file))
        time.sleep(6)
        _restore(run, begun_at)

    return Heal() if run.staff(work) else None


def _restore(run: Run, backup_begun_at: float) -> None:
    site = run.site
    for agent in site.agents:
        agent.ignore_losses(LOSSES_SECONDS)
    site.end_servers()
    site.restored.append((backup_begun_at, time.time()))
    keys = site.staff.folder / "keys"
    folder = site.project_disk / f"project{run.restores + 1}"
    if site.owns_postgres:
        site.use_new_database(run.restores + 1)
    site.staff_does("restore", str(site.root / "backup.tar.gz"), str(folder))
    shutil.copytree(keys, folder / "keys", dirs_exist_ok=True)
    site.use_folder(folder)
    for server in site.servers:
        site.start_server(server)
    site.servers_stand_still = False
    for agent in site.agents:
        agent.ignore_losses(LOSSES_SECONDS)
