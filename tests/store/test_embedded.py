"""The embedded PostgreSQL: one cluster for many commands, no process left, safe to kill."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import patch

import psutil
import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from axiom_server.errors import DatabaseUnreachable
from axiom_server.store import database
from axiom_server.store.database import migrate
from axiom_server.store.embedded import EmbeddedPostgres, choose_socket_folder
from tests.support.made_cluster import place_copy

WAIT_SECONDS = 60.0

#: A process that uses the cluster: it prints a line when it has opened it, and keeps it open.
USER = """
import sys, time
from pathlib import Path
from axiom_server.store.embedded import EmbeddedPostgres
folder = Path(sys.argv[1])
postgres = EmbeddedPostgres(folder / "postgres", folder / "postgres.log")
print(postgres.open(), flush=True)
sys.stdin.readline()
postgres.close()
"""


def embedded(folder: Path) -> EmbeddedPostgres:
    return EmbeddedPostgres(folder / "postgres", folder / "postgres.log")


def made(folder: Path) -> EmbeddedPostgres:
    """One that may be a copy: for tests of what happens after it was made."""
    postgres = embedded(folder)
    place_copy(postgres)
    return postgres


def another_user(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", USER, str(folder)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip


def servers_of(folder: Path) -> list[psutil.Process]:
    """Processes of the cluster, its keeper among them."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if any(str(folder) in word for word in process.info["cmdline"] or ()) and (
            "postgres" in process.info["cmdline"][0] or "keeper.py" in str(process.info["cmdline"])
        ):
            found.append(process)
    return found


def wait_until(done: Callable[[], bool]) -> None:
    until = time.monotonic() + WAIT_SECONDS
    while not done():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_it_starts_keeps_data_and_leaves_no_process(tmp_path: Path) -> None:
    postgres = embedded(tmp_path)
    with psycopg.connect(postgres.open()) as connection:
        connection.execute("CREATE TABLE kept (x int)")
        version = connection.execute("SHOW server_version_num").fetchone()
        listening = connection.execute("SHOW listen_addresses").fetchone()
    assert version is not None
    assert int(version[0]) >= 180000
    assert listening == ("",), "no TCP"
    assert servers_of(tmp_path)
    postgres.close()
    assert servers_of(tmp_path) == []
    with psycopg.connect(postgres.open()) as connection:
        connection.execute("SELECT * FROM kept")
    postgres.close()


def test_several_commands_use_one_cluster_and_the_last_stops_it(tmp_path: Path) -> None:
    users = [another_user(tmp_path) for _ in range(3)]
    for user in users:
        assert user.stdout is not None
        assert "host=" in user.stdout.readline()
    mine = embedded(tmp_path)
    mine.open()
    for user in users:
        user.communicate("go\n", timeout=WAIT_SECONDS)
    psycopg.connect(mine.conninfo).close()
    mine.close()
    assert servers_of(tmp_path) == []


def test_a_killed_user_leaves_nothing_running(tmp_path: Path) -> None:
    made(tmp_path)
    user = another_user(tmp_path)
    assert user.stdout is not None
    user.stdout.readline()
    user.kill()
    user.communicate()
    wait_until(lambda: servers_of(tmp_path) == [])


@pytest.mark.parametrize("what", ["postgres", "keeper.py"])
def test_committed_data_survive_a_kill(tmp_path: Path, what: str) -> None:
    postgres = made(tmp_path)
    with psycopg.connect(postgres.open()) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS x")
    for process in servers_of(tmp_path):
        line = process.cmdline()
        if ("keeper.py" in str(line)) == (what == "keeper.py"):
            process.send_signal(signal.SIGKILL)
    other = embedded(tmp_path)
    wait_until(lambda: what == "postgres" or not other._keeper_runs())
    with psycopg.connect(other.open()) as connection:
        assert connection.execute("SELECT x FROM kept").fetchone() == (42,)
    other.close()
    postgres.close()
    wait_until(lambda: servers_of(tmp_path) == [])


def test_nobody_else_reads_the_log_or_reaches_the_socket(tmp_path: Path) -> None:
    """Neither in a new folder nor in one that was left open, whatever the umask."""
    private = ("postgres", "postgres/run", "postgres/data", "logs", "logs/postgres.log")
    before = os.umask(0)
    try:
        for _ in range(2):
            postgres = EmbeddedPostgres(tmp_path / "postgres", tmp_path / "logs" / "postgres.log")
            postgres.open()
            try:
                modes = [(tmp_path / name).stat().st_mode & 0o077 for name in private]
            finally:
                postgres.close()
            assert modes == [0] * len(private)
            (tmp_path / "postgres" / "run").chmod(0o777)
            (tmp_path / "logs" / "postgres.log").chmod(0o644)
    finally:
        os.umask(before)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root changes user")
@pytest.mark.parametrize("reachable", [True, False])
def test_without_user_namespaces_root_becomes_an_ordinary_user(
    monkeypatch: pytest.MonkeyPatch, reachable: bool
) -> None:
    run = EmbeddedPostgres._run

    def without_namespaces(
        self: EmbeddedPostgres, how: str, program: str, *words: str
    ) -> subprocess.CompletedProcess[str]:
        if how == "namespace":
            return subprocess.CompletedProcess([], 77, "", "not permitted")
        return run(self, how, program, *words)

    monkeypatch.setattr(EmbeddedPostgres, "_run", without_namespaces)
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755 if reachable else 0o700)
        postgres = embedded(folder)
        if not reachable:
            with pytest.raises(DatabaseUnreachable, match="user namespaces are not allowed"):
                postgres.open()
            return
        with psycopg.connect(postgres.open()) as connection:
            connection.execute("SELECT 1")
        assert postgres.data.stat().st_uid != 0
        postgres.close()
        psycopg.connect(postgres.open()).close()
        postgres.close()


def test_a_stale_pid_file_with_a_reused_pid_does_not_stop_it(tmp_path: Path) -> None:
    postgres = made(tmp_path)
    postgres.open()
    postgres.close()
    (postgres.data / "postmaster.pid").write_text(f"{os.getppid()}\n{postgres.data}\n")
    postgres.open()
    postgres.close()


@pytest.mark.parametrize("name", ["x" * 120, "with, comma and 'quote'"])
def test_a_folder_whose_path_no_socket_can_have(tmp_path: Path, name: str) -> None:
    postgres = embedded(tmp_path / name)
    with psycopg.connect(postgres.open()) as connection:
        connection.execute("SELECT 1")
    socket_folder = postgres.socket_folder
    assert str(tmp_path) not in str(socket_folder)
    postgres.close()
    socket_folder.rmdir()


def test_a_shared_socket_folder_is_refused(tmp_path: Path) -> None:
    wanted = tmp_path / ("y" * 120)
    short = choose_socket_folder(wanted)
    short.chmod(0o777)
    with pytest.raises(DatabaseUnreachable, match="readable by others"):
        choose_socket_folder(wanted)
    short.rmdir()


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    postgres = made(tmp_path)
    postgres.open()
    postgres.close()
    (postgres.data / "global" / "pg_control").unlink()
    with pytest.raises(DatabaseUnreachable, match="did not start"):
        postgres.open()
    assert servers_of(tmp_path) == []


def test_migrations_run_once_and_know_their_newest(tmp_path: Path) -> None:
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    folder = Path(database.__file__).parent / "migrations"
    config.set_main_option("script_location", str(folder))
    assert ScriptDirectory.from_config(config).get_current_head() == database.HEAD
    postgres = embedded(tmp_path)
    conninfo = postgres.open()
    try:
        migrate(conninfo)
        migrate(conninfo)
        with psycopg.connect(conninfo) as connection:
            connection.execute("UPDATE alembic_version SET version_num = '9999'")
        with pytest.raises(DatabaseUnreachable, match="newer axiom-server"):
            migrate(conninfo)
    finally:
        postgres.close()


def test_a_database_that_is_not_there_is_one_clear_line() -> None:
    with pytest.raises(DatabaseUnreachable, match="does not answer"):
        migrate("host=/nowhere dbname=none")


def test_a_database_that_ends_within_a_transaction_is_one_clear_line(postgres: str) -> None:
    async def lose_connection() -> None:
        async with database.connect(postgres) as connection:
            await connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    with pytest.raises(DatabaseUnreachable, match="does not answer"):
        asyncio.run(lose_connection())


def test_a_database_that_ends_within_a_migration_is_one_clear_line(postgres: str) -> None:
    """The next start migrates again: a migration is one transaction."""
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS migrated")
        connection.execute("CREATE DATABASE migrated")
    conninfo = make_conninfo(postgres, dbname="migrated")
    with patch.object(database, "HEAD", "0009"):
        migrate(conninfo)
    with psycopg.connect(conninfo) as holder, ThreadPoolExecutor(1) as other:
        holder.execute("LOCK TABLE users")
        done = other.submit(migrate, conninfo)
        wait_until(lambda: _end_waiting(postgres))
        with pytest.raises(DatabaseUnreachable, match="does not answer"):
            done.result(WAIT_SECONDS)
    migrate(conninfo)
    with psycopg.connect(conninfo) as connection:
        found = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    assert found == (database.HEAD,)


def _end_waiting(conninfo: str) -> bool:
    """Whether a backend waited for a lock; it is ended."""
    with psycopg.connect(conninfo) as connection:
        return bool(connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = 'migrated' AND wait_event_type = 'Lock'"
        ).fetchall())  # fmt: skip


def test_a_log_that_is_a_device_keeps_its_permissions(tmp_path: Path) -> None:
    before = Path(os.devnull).stat().st_mode
    postgres = EmbeddedPostgres(tmp_path / "postgres", Path(os.devnull))
    postgres.open()
    postgres.close()
    assert Path(os.devnull).stat().st_mode == before
