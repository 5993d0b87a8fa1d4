"""The two programs as real processes, the way a test drives them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.support.commands import (
    PROGRAMS,
    Done,
    ForkedProcess,
    can_fork,
    finished,
    run_command,
)
from tests.support.processes import WAIT_SECONDS, wait_for

LONG_RUNS = ("run", "serve")
Process = subprocess.Popen[bytes] | ForkedProcess
FIXTURES = Path(__file__).parents[1] / "fixtures"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass(kw_only=True)
class Program:
    """A command-line program whose environment names its own folder."""

    name: str
    folder: Path
    variable: str
    process: Process | None = None
    environment: dict[str, str] = field(default_factory=dict)
    installed: bool = False  # for long runs: start the installed program, do not fork

    def command(self, *words: str) -> tuple[list[str], dict[str, str]]:
        return [str(PROGRAMS / self.name), *words], self._variables()

    def _variables(self) -> dict[str, str]:
        return {**os.environ, **self.environment, self.variable: str(self.folder)}

    def finish(self, *words: str) -> Done:
        """Run to the end, whatever the exit code."""
        if self.installed and words[0] in LONG_RUNS:
            return finished(*self.command(*words))
        return run_command(self.name, *words, environment=self._variables())

    def run(self, *words: str, code: int = 0) -> str:
        """Run to the end; the exit code must be ``code``. Returns stdout, or stderr on an error."""
        done = self.finish(*words)
        assert done.returncode == code, f"{done}"
        assert "Traceback" not in done.stdout + done.stderr
        return done.stderr if code else done.stdout

    def json(self, *words: str) -> Any:
        return json.loads(self.run(*words, "--json"))

    def start(self, *words: str) -> Process:
        """Start in the background; output goes to a log beside the folder."""
        line, environment = self.command(*words)
        log = self.log_file
        if not self.installed and can_fork(environment):
            self.process = ForkedProcess([self.name, *words], environment, log, log)
            return self.process
        with log.open("ab") as file:
            self.process = subprocess.Popen(line, env=environment, stdout=file, stderr=file)
        return self.process

    @property
    def log_file(self) -> Path:
        """What it printed since its first start."""
        return self.folder.parent / f"{self.name}.log"

    def kill(self) -> None:
        """As a power cut would: no chance to clean up."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """Politely; returns the exit code."""
        if self.process is None:
            return 0
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=WAIT_SECONDS)


@dataclass(kw_only=True)
class Server(Program):
    port: int = field(default_factory=free_port)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def serve(self) -> None:
        self.start("serve", "--port", str(self.port))
        wait_for("the server to be ready", self.ready)

    def ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, "the server ended; see axiom-server.log"
        try:
            return httpx.get(f"{self.url}/readyz", timeout=2).is_success
        except httpx.TransportError:
            return False


def server(folder: Path) -> Server:
    """A project in ``folder``, initialised, not yet serving."""
    made = Server(name="axiom-server", folder=folder / "project", variable="AXIOM_SERVER_DIR")
    made.run("init", str(made.folder))
    return made


def agent(folder: Path, name: str = "agent") -> Program:
    """An agent with all its folders in one of this name (short, because of a socket's path)."""
    made = Program(name="axiom-client", folder=folder / name, variable="AXIOM_CLIENT_DIR")
    made.folder.mkdir(parents=True)
    return made


def descendants(process: Process) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)
