"""Servers to be measured, and HTTP clients that put load on them with little CPU time of their own.

The clients share the machine's cores with the server, so they use HTTP/1.1 over plain asyncio
streams and handle JSON as bytes where possible.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import psycopg
from psycopg.conninfo import make_conninfo

from axiom_server.project_folder import ProjectFolder

ROOT = Path(__file__).resolve().parents[1]
READY_SECONDS = 180.0  # on a busy machine, initdb alone may take a minute


class Connection:
    """One keep-alive connection."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, path: str, body: bytes, token: str = "") -> tuple[int, bytes]:
        """Status and body of the answer."""
        request = (
            b"POST %b HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
            b"Authorization: Bearer %b\r\nContent-Length: %d\r\n\r\n"
            % (path.encode(), token.encode(), len(body))
            + body
        )
        kept = self._streams is not None
        try:
            return await self._exchange(request)
        except (asyncio.IncompleteReadError, ConnectionError):
            if not kept:
                raise
            self.close()  # the server has closed the idle connection
            return await self._exchange(request)

    async def _exchange(self, request: bytes) -> tuple[int, bytes]:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self.port)
        reader, writer = self._streams
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
        return int(head[9:12]), await reader.readexactly(length)

    def close(self) -> None:
        """Close the connection."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


@contextmanager
def project() -> Iterator[Path]:
    """A project in a temporary folder, removed afterwards, also when SIGTERM ends the benchmark."""
    with _leaving_on_sigterm(), tempfile.TemporaryDirectory(prefix="axiom-bench-") as folder:
        path = Path(folder) / "p"
        staff(path, "init", str(path))
        _lift_join_limits(path / "project.toml")
        yield path


@contextmanager
def _leaving_on_sigterm() -> Iterator[None]:
    """SIGTERM raises SystemExit, so that the servers and agents of the benchmark are ended."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _lift_join_limits(config: Path) -> None:
    """Switch off the limits on new accounts and hosts: hundreds join here from one address."""
    header = "[limits]"
    opened = f"{header}\naccounts_burst = 0\nenrolments_burst = 0\n#"
    config.write_text(config.read_text().replace(header, opened, 1))


def join_and_vouch(project: Path, attach: Sequence[str], environment: Mapping[str, str]) -> None:
    """Attach an agent, and let staff vouch for its account.

    Otherwise the project believes by and by only that the host has all its cores.

    attach       the command up to the server's address
    environment  the agent's
    """
    user = f"owner-{time.monotonic_ns()}"
    subprocess.run(
        [*attach, "--user", user], env=environment, stdout=subprocess.DEVNULL, check=True
    )
    staff(project, "users", "vouch", user)


def staff(folder: Path, *words: str) -> str:
    """Run a command of axiom-server to its end; returns what it printed."""
    done = subprocess.run(
        _line(*words), env=environment(folder), stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout


@contextmanager
def serving(folder: Path) -> Iterator[int]:
    """Run a serving process; gives its port, and stops it afterwards."""
    port = free_port()
    with listening(_line("serve", "--port", str(port)), environment(folder), port):
        wait_ready(port)
        yield port


def wait_ready(port: int) -> None:
    """Wait until a serving process has its database: it listens before."""
    until = time.monotonic() + READY_SECONDS
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=READY_SECONDS):
                return
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)


@contextmanager
def serving_bare(folder: Path, queued: int) -> Iterator[int]:
    """Run the bare server on the same PostgreSQL, in a database of its own; gives its port."""
    cluster = ProjectFolder(folder).embedded()
    conninfo = cluster.open()
    try:
        with psycopg.connect(conninfo, autocommit=True) as db:
            db.execute("CREATE DATABASE bare")
        port = free_port()
        line = [
            sys.executable, "-m", "benchmarks.reference.bare_server",
            make_conninfo(conninfo, dbname="bare"), str(port), str(queued),
        ]  # fmt: skip
        with listening(line, environment(folder), port):
            yield port
    finally:
        cluster.close()


def free_port() -> int:
    """A free port of the loopback interface."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def listening(line: list[str], environment: dict[str, str], port: int) -> Iterator[None]:
    """Run a process, wait until it listens on ``port``, and stop it afterwards."""
    process = subprocess.Popen(line, env=environment, stdout=subprocess.DEVNULL)
    try:
        until = time.monotonic() + READY_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > until:
                    raise
                time.sleep(0.05)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)


def _line(*words: str) -> list[str]:
    return [sys.executable, "-m", "axiom_server.cli.app", *words]


def environment(folder: Path) -> dict[str, str]:
    """The environment of a server with its project in ``folder``."""
    return {**os.environ, "AXIOM_SERVER_DIR": str(folder), "PYTHONPATH": str(ROOT)}


def host_facts(cores: int) -> dict[str, Any]:
    """The facts of a host with so many cores."""
    return {
        "name": "bench", "os": "linux", "architecture": "x86_64", "cpu_cores": cores,
        "memory_bytes": cores << 31, "disk_free_bytes": 1 << 40,
        "environments": ["numpy", "torch"],
    }  # fmt: skip


def trust_all(folder: Path) -> None:
    """Make every host a trusted one, of whose results one in fifty is replicated."""
    with psycopg.connect(ProjectFolder(folder).embedded().conninfo) as db:
        db.execute("UPDATE hosts SET agreements = 1000")
        db.execute("UPDATE users SET validated = 1000")


async def enrol(connection: Connection, cores: int) -> str:
    """Enrol a new host of a new user; returns its token."""
    body = msgspec.json.encode({"host": host_facts(cores)})
    status, answer = await connection.post("/api/v1/hosts", body)
    if status != 201:
        raise RuntimeError(f"enrol: {status} {answer[:200]!r}")
    token: str = msgspec.json.decode(answer)["token"]
    return token
