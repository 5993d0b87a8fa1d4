"""A real agent process in its own folder, and the commands that control it."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil

from tests.support.commands import Done, ForkedProcess, run_command
from tests.support.processes import WAIT_SECONDS, still_running


class AgentProcess:
    """``folder``: the folder of this agent's files."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.folder = folder
        self.environment = {**os.environ, "AXIOM_CLIENT_DIR": str(folder), **environment}
        self.process: ForkedProcess | subprocess.Popen[bytes] | None = None

    def command(self, *words: str) -> Done:
        """Run a command to its end."""
        return run_command("axiom-client", *words, environment=self.environment)

    def ok(self, *words: str) -> str:
        """Run a command that must succeed; what it printed."""
        done = self.command(*words)
        assert done.returncode == 0, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def refused(self, code: int, *words: str) -> str:
        """Run a command that must fail with ``code`` and one line; that line."""
        done = self.command(*words)
        assert done.returncode == code, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
        [line] = done.stderr.splitlines()
        return line

    def json(self, *words: str) -> Any:
        """The decoded output of a command with --json."""
        return json.loads(self.ok(*words, "--json"))

    def start(self, *words: str) -> ForkedProcess:
        """Run the agent in the background; its lines go to ``folder``.out."""
        out = self.folder.with_suffix(".out")
        line = ["axiom-client", "run", "--no-display", *words]
        self.process = ForkedProcess(line, self.environment, out, out)
        return self.process

    def start_bounded(self, file_bytes_max: int) -> subprocess.Popen[bytes]:
        """The same, where no file may become larger."""

        def bound() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes_max, file_bytes_max))

        with self.folder.with_suffix(".out").open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "axiom_client", "run", "--no-display"],
                env=self.environment, stdout=out, stderr=out, preexec_fn=bound,
            )  # fmt: skip
        return self.process

    def output(self) -> str:
        """The agent's output so far."""
        return self.folder.with_suffix(".out").read_text()

    def tasks(self, state: str) -> list[int]:
        """The tasks in this state, as the agent or its journal has it."""
        return [t["task_id"] for t in self.json("tasks")["tasks"] if t["state"] == state]

    def processes(self) -> list[psutil.Process]:
        """The running processes that the agent started."""
        assert self.process is not None
        return psutil.Process(self.process.pid).children(recursive=True)

    def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=WAIT_SECONDS)

    def close(self) -> None:
        """End all processes that a test has left."""
        if self.process is not None and self.process.poll() is None:
            family = self.processes()
            self.kill()
            alive = still_running(family, 10)
            for process in alive:
                process.kill()
