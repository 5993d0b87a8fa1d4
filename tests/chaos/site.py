"""A complete project as real processes: PostgreSQL, one or two servers, agents, and a proxy."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import psycopg
from psycopg.conninfo import make_conninfo

from axiom_server.store.embedded import EmbeddedPostgres
from tests.chaos import disk, experiments
from tests.chaos.proxy import Link, Proxy
from tests.chaos.traffic import Traffic
from tests.support.commands import finished
from tests.support.processes import runs, wait_for
from tests.support.programs import Program, Server, free_port

MARK = "CHAOS_RUN"  # in the environment of every process that belongs to a run
CLOCK = Path(__file__).parent / "clock"
AGENT_DISK, SERVER_DISK = "96m", "1500m"
SQL_SECONDS = 60.0
CONFIG = """
[project]
name = "Chaos"
[serve]
sync_seconds = 3.0
idle_sync_seconds = 1.0
round_seconds = 1.0
"""


@dataclass(kw_only=True)
class Agent:
    """An agent, its link to the servers and its clock. ``busy``: the fault that it is under."""

    name: str
    program: Program
    link: Link
    clock: Path
    host_id: int = 0
    busy: str = ""
    wanted: bool = True  # should run; keep_services starts it again
    exits: list[int] = field(default_factory=list)
    losses_ignored: list[tuple[float, float]] = field(
        default_factory=list
    )  # may lose tasks, since 1970

    forgot_at: list[float] = field(default_factory=list)  # since 1970: its journal was damaged

    @property
    def state(self) -> Path:
        return self.program.folder / "state"

    @property
    def host_ids(self) -> set[int]:
        """The host that it was at first, and the one that it is now."""
        with suppress(OSError, ValueError):
            return {
                self.host_id,
                int(json.loads((self.state / "identity.json").read_text())["host_id"]),
            }
        return {self.host_id}

    @property
    def alive(self) -> bool:
        return self.program.process is not None and self.program.process.poll() is None

    def start(self) -> None:
        self.wanted = True
        self.program.start("run", "--no-display")

    def kill(self) -> None:
        self.wanted = False
        if self.alive:
            self.program.kill()

    def zygotes(self) -> list[psutil.Process]:
        """Its zygotes."""
        return [p for p in self.children() if _runs_module(p, "zygote")]

    def tasks(self) -> list[psutil.Process]:
        """What its zygotes have forked."""
        found = []
        for zygote in self.zygotes():
            with suppress(psutil.NoSuchProcess):
                found += zygote.children()
        return found

    def children(self) -> list[psutil.Process]:
        """The processes that it has started."""
        if not self.alive:
            return []
        assert self.program.process is not None
        with suppress(psutil.NoSuchProcess):
            return psutil.Process(self.program.process.pid).children()
        return []

    def ignore_losses(self, seconds: float) -> None:
        """Do not count tasks that it loses from now on, for this time."""
        now = time.time()
        self.losses_ignored.append((now - 1, now + seconds))


def _runs_module(process: psutil.Process, name: str) -> bool:
    with suppress(psutil.Error):
        return any(name in word for word in process.cmdline())
    return False


@dataclass
class Site:
    """The files and processes of one run, in one folder."""

    root: Path
    seed: int
    server_count: int
    vouched: bool = False
    servers: list[Server] = field(default_factory=list)
    agents: list[Agent] = field(default_factory=list)
    traffic: Traffic = field(default_factory=Traffic)
    proxy: Proxy = field(init=False)
    staff: Server = field(init=False)
    postgres: EmbeddedPostgres = field(init=False)
    conninfo: str = ""
    server_exits: list[tuple[int, list[str]]] = field(default_factory=list)  # last lines of logs
    patches: dict[str, int] = field(default_factory=dict)  # newest version of each experiment
    resumed: Counter[str] = field(default_factory=Counter)  # times that staff resumed experiments
    retired: set[str] = field(default_factory=set)  # NAME@VERSION: may leave workunits unended
    servers_stand_still: bool = False
    #: Held while servers are started, and while they are made to stand still.
    servers_lock: threading.Lock = field(default_factory=threading.Lock)
    #: When a backup was begun, and when its restoration ended what came after it; since 1970.
    restored: list[tuple[float, float]] = field(default_factory=list)
    postgres_lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def owns_postgres(self) -> bool:
        """Whether PostgreSQL is the operator's, so that no server starts it again."""
        return self.server_count > 1

    @property
    def project_disk(self) -> Path:
        return self.root / "disk"

    # --- building ---------------------------------------------------------------------------------

    def build(self, agents: int) -> None:
        """A project with published experiments, and attached agents that run."""
        (self.root / "tmp").mkdir()
        self.proxy = Proxy(self.seed, self.traffic)
        disk.mount(self.project_disk, SERVER_DISK)
        self._make_project()
        for name in (*experiments.PAUSES, experiments.POISON):
            self.publish(name)
        for _ in range(self.server_count):
            self.servers.append(self._program(Server, "axiom-server", self.staff.folder))
        self.start_servers()
        for number in range(1, agents + 1):
            self.agents.append(self._make_agent(f"agent{number}"))

    def _make_project(self) -> None:
        folder = self.project_disk / "project"
        self.staff = self._program(Server, "axiom-server", folder)
        if self.owns_postgres:
            self.postgres = EmbeddedPostgres(self.project_disk / "pg", self.root / "postgres.log")
            base = self.postgres.open()
            with psycopg.connect(base, autocommit=True) as connection:
                connection.execute("CREATE DATABASE project")
            self._use_database("project")
        self.staff.run("init", str(folder))
        if not self.owns_postgres:
            self.use_folder(folder)
        (folder / "project.toml").write_text(CONFIG)

    def _use_database(self, name: str) -> None:
        self.conninfo = make_conninfo(self.postgres.conninfo, dbname=name)
        for program in (self.staff, *self.servers):
            program.environment["AXIOM_DATABASE_URL"] = self.conninfo

    def use_folder(self, folder: Path) -> None:
        """Use the project in this folder from now on."""
        for program in (self.staff, *self.servers):
            program.folder = folder
        if not self.owns_postgres:
            self.postgres = EmbeddedPostgres(folder / "postgres", folder / "logs" / "postgres.log")
            self.conninfo = self.postgres.conninfo

    def use_new_database(self, number: int) -> None:
        """An empty database of the operator's, to restore into."""
        name = f"project{number}"
        with psycopg.connect(self.postgres.conninfo, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        self._use_database(name)

    def _program(self, kind: type[Any], name: str, folder: Path) -> Any:
        variable = "AXIOM_SERVER_DIR" if name == "axiom-server" else "AXIOM_CLIENT_DIR"
        made = kind(name=name, folder=folder, variable=variable, installed=True)
        made.environment |= {MARK: str(self.root), "TMPDIR": str(self.root / "tmp")}
        if self.conninfo and self.owns_postgres and name == "axiom-server":
            made.environment["AXIOM_DATABASE_URL"] = self.conninfo
        return made

    def _make_agent(self, name: str) -> Agent:
        folder = self.root / name / "home"
        disk.mount(folder, AGENT_DISK)
        agent = self.add_agent(name, folder)
        wait_for("the project to answer", lambda: self.ask(agent.program, "attach", agent.link.url,
                 "--user", name, "--name", name).returncode == 0)  # fmt: skip
        if self.vouched:
            self.staff_does("users", "vouch", name)
        agent.host_id = int(self.value("SELECT host_id FROM hosts WHERE name = %s", name))
        agent.start()
        return agent

    def add_agent(self, name: str, folder: Path) -> Agent:
        """An agent of this folder, which may be attached already; not started."""
        program = self._program(Program, "axiom-client", folder)
        clock = folder.parent / "clock"
        clock.write_text("0")
        program.environment |= {
            "PYTHONPATH": str(CLOCK), "CHAOS_CLOCK": str(clock), "AXIOM_WORK_BUFFER": "5 s",
            "AXIOM_DISK_KEEP_FREE": "0%", "AXIOM_DISK_TOTAL": "60 MB", "AXIOM_CPU_CORES": "2",
        }  # fmt: skip
        return Agent(name=name, program=program, link=self.proxy.open(name), clock=clock)

    # --- commands ---------------------------------------------------------------------------------

    def ask(self, program: Program, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command, whatever its exit code."""
        return finished(*program.command(*words))

    def staff_does(self, *words: str, tries: int = 20) -> str:
        """Run a staff command until it succeeds, within some attempts."""
        for _ in range(tries):
            done = self.ask(self.staff, *words)
            if done.returncode == 0:
                return done.stdout
            self.note_output(words, done)
            time.sleep(1)
        raise AssertionError(f"axiom-server {words} failed {tries} times: {done.stderr}")

    def note_output(self, words: tuple[str, ...], done: subprocess.CompletedProcess[str]) -> None:
        """Keep a command's error lines; they are checked with the logs."""
        with (self.root / "staff.log").open("a") as log:
            log.write(f"# {' '.join(words)} -> {done.returncode}\n{done.stderr}")

    def interrupt(self, seconds: float, *words: str) -> None:
        """Start a staff command, and kill -9 it if it runs longer than this."""
        line, environment = self.staff.command(*words)
        with suppress(subprocess.TimeoutExpired):  # run() kills it then
            self.note_output(words, finished(line, environment, seconds))

    def publish(self, name: str, interrupted_after: float = 0.0) -> None:
        """The next version of an experiment; the older ones retire."""
        patch = self.patches.get(name, -1) + 1
        path = experiments.write(self.root, name, patch)
        words = ("publish", "--skip", "dry-run", str(path))
        if interrupted_after:
            self.interrupt(interrupted_after, *words)
        self.staff_does(*words)
        self.retired |= {f"{name}@1.0.{old}" for old in range(patch)}
        self.patches[name] = patch

    # --- servers and database ---------------------------------------------------------------------

    def start_servers(self) -> None:
        """All of them, and wait until one answers."""
        for server in self.servers:
            self.start_server(server)
        wait_for("a server to answer", lambda: any(s.ready() for s in self.servers))

    def start_server(self, server: Server) -> None:
        """One of them; its port is new, for the old one may still be in TIME_WAIT."""
        server.port = free_port()
        server.start("serve", "--port", str(server.port))
        self.proxy.servers = [s.port for s in self.servers]

    def end_servers(self) -> None:
        """Kill all of them; none is started until ``servers_stand_still`` is false again."""
        with self.servers_lock:
            self.servers_stand_still = True
            for server in self.servers:
                server.kill()

    def stop_servers(self) -> None:
        """Stop all servers by SIGTERM."""
        for server in self.servers:
            server.stop()

    def postmaster(self) -> psutil.Process | None:
        """The database's first process, if it lives."""
        with suppress(OSError, ValueError, psutil.NoSuchProcess):
            pid = int((self.postgres.data / "postmaster.pid").read_text().split("\n", 1)[0])
            found = psutil.Process(pid)
            return found if runs(found) else None
        return None

    def backends(self) -> list[psutil.Process]:
        """Processes of PostgreSQL that serve a connection."""
        if (master := self.postmaster()) is None:
            return []
        with suppress(psutil.Error):
            return [p for p in master.children() if "axiom" in " ".join(p.cmdline())]
        return []

    def restart_postgres(self) -> None:
        """Start the operator's PostgreSQL again; a server restarts an embedded one itself.

        On a full disk it would not start, so room is made first.
        """
        if self.owns_postgres:
            disk.free(self.project_disk)
            wait_for("PostgreSQL to start", self._opens)

    def open_postgres(self) -> None:
        """Start PostgreSQL when no server keeps it running. Raises DatabaseUnreachable."""
        with self.postgres_lock:
            self.postgres.open()

    def release_postgres(self) -> None:
        """Let an embedded PostgreSQL stop; an operator's goes on."""
        if not self.owns_postgres:
            with self.postgres_lock:
                self.postgres.close()

    def _opens(self) -> bool:
        try:
            self.open_postgres()
        except Exception:  # noqa: BLE001  it is tried again
            return False
        return True

    @contextmanager
    def _connected(self, seconds: float) -> Iterator[psycopg.Connection[Any]]:
        with psycopg.connect(self.conninfo, connect_timeout=2, autocommit=True) as connection:
            connection.execute(f"SET statement_timeout = '{max(3.0, seconds):.0f}s'")
            yield connection

    def rows(self, query: str, *values: Any, seconds: float = SQL_SECONDS) -> list[Any]:
        """The rows of a query; repeated until the database answers."""
        until = time.monotonic() + seconds
        while True:
            try:
                with self._connected(seconds) as connection:
                    return connection.execute(query, values).fetchall()  # type: ignore[call-overload,no-any-return]
            except psycopg.OperationalError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.3)

    def value(self, query: str, *values: Any, seconds: float = SQL_SECONDS) -> Any:
        """The one value of a query."""
        return self.rows(query, *values, seconds=seconds)[0][0]

    # --- looking after ----------------------------------------------------------------------------

    def keep_services(self) -> None:
        """Start ended programs again, as a service manager does; keep their exit codes."""
        with self.servers_lock:
            for server in self.servers:
                if server.process is not None and (code := server.process.poll()) is not None:
                    self.server_exits.append((code, _last_lines(server.log_file)))
                    if not self.servers_stand_still:
                        self.start_server(server)
        for agent in self.agents:
            if agent.wanted and not agent.busy and not agent.alive:
                assert agent.program.process is not None
                agent.exits.append(agent.program.process.poll())
                agent.start()

    def processes(self) -> list[psutil.Process]:
        """Every process that belongs to this run and is not this one."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                if process.pid != os.getpid() and runs(process) and self._owns(process):
                    found.append(process)
        return found

    def _owns(self, process: psutil.Process) -> bool:
        where = f"/proc/{process.pid}"
        places = [os.readlink(f"{where}/cwd"), *process.cmdline()]
        environment = Path(f"{where}/environ").read_bytes()
        return any(str(self.root) in place for place in places) or (
            f"{MARK}={self.root}".encode() in environment
        )

    def destroy(self) -> None:
        """End all processes and remove all files."""
        if hasattr(self, "postgres"):
            with suppress(Exception):
                self.postgres.close()
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGCONT)
                process.kill()
        self.proxy.close()
        if disk.may_mount():
            subprocess.run(["umount", "-l", *self._mounts()], capture_output=True, check=False)
        shutil.rmtree(self.root, ignore_errors=True)

    def _mounts(self) -> list[str]:
        lines = Path("/proc/self/mounts").read_text().splitlines()
        return [line.split()[1] for line in lines if line.split()[1].startswith(str(self.root))]


def _last_lines(log: Path) -> list[str]:
    """The last few lines of a log, without one that a full disk kept from being written."""
    return log.read_text(errors="replace").splitlines()[-3:] if log.exists() else []


@contextmanager
def site(
    seed: int, servers: int, agents: int, *, keep: bool, vouched: bool = False
) -> Iterator[Site]:
    """Build, and leave nothing behind.

    keep     the folder stays, to be looked at
    vouched  staff vouch for the agents' accounts, so that these do not wait after lost tasks
    """
    root = Path(tempfile.mkdtemp(prefix="chaos-"))
    root.chmod(0o755)
    made = Site(root, seed, servers, vouched)
    try:
        made.build(agents)
        yield made
    finally:
        if keep:
            kept = Path(f"{root}-kept")
            shutil.copytree(root, kept, symlinks=True, ignore=sockets, dirs_exist_ok=True)
            print(f"kept in {kept}")
        made.destroy()


def sockets(folder: str, names: list[str]) -> list[str]:
    """Of these names in a folder, those that cannot be copied."""
    return [name for name in names if not (p := Path(folder, name)).is_file() and not p.is_dir()]
