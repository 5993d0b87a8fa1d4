"""A project with a real server and a real agent, for the checks of GPUs."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from gpu_commands import command, environment, wait_for

PROBE = Path(__file__).with_name("gpu_probe.py")


class Project:
    """A server and an agent as processes, with all their files in one folder."""

    def __init__(self, folder: Path, gpu: bool) -> None:
        self.folder, self.gpu = folder, gpu
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._processes: list[subprocess.Popen[bytes]] = []

    def begin(self) -> None:
        """Publish the probe, start the server, attach the agent."""
        self.staff("init", str(self.folder / "project"))
        probe = self.folder / PROBE.name
        probe.write_text(
            PROBE.read_text()
            if self.gpu
            else PROBE.read_text().replace("# gpus = 1\n# gpu_share = 0.5\n", "")
        )
        self.staff("publish", "--skip", "dry-run", str(probe))
        self._start("axiom_server", "serve", "--port", str(self.port))
        wait_for("the server", self._answers)
        self.volunteer("attach", f"http://127.0.0.1:{self.port}")

    def deploy(self, mode: str, count: int, hold_seconds: float = 20.0) -> None:
        """Deploy workunits of the probe in this mode."""
        sweep = self.folder / f"{mode}.toml"
        sweep.write_text(f'[[set]]\nmode = "{mode}"\nhold_seconds = {hold_seconds}\n')
        device = ["--gpu"] if self.gpu else []
        self.staff(
            "deploy", "gpu_probe", "--count", str(count), "--parameters", str(sweep), *device
        )

    def staff(self, *words: str) -> str:
        """Run a command of axiom-server."""
        return command("axiom_server", words, self._environment())

    def volunteer(self, *words: str) -> str:
        """Run a command of axiom-client."""
        return command("axiom_client", words, self._environment())

    def run_agent(self) -> subprocess.Popen[bytes]:
        """Start the agent in the background."""
        return self._start("axiom_client", "run", "--no-display")

    def status(self) -> dict[str, Any]:
        """The agent's snapshot."""
        return dict(json.loads(self.volunteer("status", "--json")))

    def running(self) -> list[dict[str, Any]]:
        """Its running and paused tasks."""
        return [t for t in self.status()["tasks"] if t["state"] in ("running", "paused")]

    def end(self) -> None:
        """Stop all processes that were started."""
        for process in reversed(self._processes):
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()

    def _start(self, module: str, *words: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{module}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", module, *words],
                env=self._environment(), stdout=log, stderr=log, cwd=self.folder,
            )  # fmt: skip
        self._processes.append(process)
        return process

    def _answers(self) -> bool:
        try:
            with urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def _environment(self) -> dict[str, str]:
        return {
            **environment(),
            "AXIOM_SERVER_DIR": str(self.folder / "project"),
            "AXIOM_CLIENT_DIR": str(self.folder / "agent"),
        }
