"""`axiom-server demo`: a project, its experiments, one volunteer and a session log on one machine.

It runs the commands that staff and volunteers would type, as processes, and prints each command.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from urllib.error import URLError
from urllib.request import urlopen

from axiom_protocol.manifest import read_manifest
from axiom_server.errors import ServerError

READY_WITHIN_SECONDS = 60.0  # initdb and migrations take 2 s on an idle machine
READY_POLL_SECONDS = 0.1
STOP_WITHIN_SECONDS = 20.0  # the server finishes its requests; PostgreSQL writes a checkpoint
REVIEW_SECONDS = 12.0  # reserved out of --seconds for the last reports, review and log
BUSY_SHARE = 0.85  # of the cores' time: other processes use some, and the last run leaves one idle
VOLUNTEER = "Demo volunteer"


class DemoFailed(ServerError):
    """A command of the demo failed; the message names it."""

    exit_code = 1


def library() -> dict[Path, float]:
    """The experiments of the repository, or the wheel's copy of them: file -> expected seconds.

    The longest first: started in this order, they keep two cores busy to the end.
    """
    here = Path(__file__).resolve().parents[1]
    for folder in (here / "library", here.parent / "experiments"):
        found = {p: read_manifest(p.read_text()).expected_seconds for p in folder.glob("*.py")}
        if found:
            return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))
    raise DemoFailed("no experiments found; run the demo from a checkout or an installed wheel")


def run_demo(seconds: float, keep: bool) -> None:
    """Run the demo within about ``seconds``; with ``keep`` the server stays up afterwards.

    Raises DemoFailed when a command fails. Without ``keep`` no process and no file is left.
    """
    deadline = time.monotonic() + seconds
    folder = Path(tempfile.mkdtemp(prefix="axiom-demo-"))
    programs = _Programs(folder)
    try:
        with _terminated_as_interrupt():
            _run_commands(programs, deadline, keep)
    finally:
        if not keep:
            programs.stop()
            shutil.rmtree(folder, ignore_errors=True)


def _run_commands(programs: _Programs, deadline: float, keep: bool) -> None:
    programs.staff("init", str(programs.project), "--name", "Axiom demo")
    # Dry runs would take a third of the time, and the demo runs each experiment anyway.
    programs.staff("publish", "--skip", "dry-run", *map(str, library()))
    address = programs.serve()
    programs.volunteer("attach", address, "--user", VOLUNTEER)
    left = max(5.0, deadline - time.monotonic() - REVIEW_SECONDS)
    _deploy_one_of_each(programs, left)
    programs.volunteer("run", "--until-idle", "--display", "--seconds", f"{left:.0f}")
    programs.staff("review", quiet=True)
    print(programs.staff("log", quiet=True))
    if keep:
        print(f"The server is still running: {address} (process {programs.server_pid()})")
        print(f"Its folder: {programs.project}")
        print(f"Stop it with: kill {programs.server_pid()}")


def _deploy_one_of_each(programs: _Programs, seconds: float) -> None:
    """Deploy one workunit of every experiment, with smaller budgets when time is too short."""
    nominal = {path.stem: seconds for path, seconds in library().items()}
    share = BUSY_SHARE * (os.cpu_count() or 1) * seconds / sum(nominal.values())
    if share >= 1:
        programs.staff("deploy", *nominal, "--count", str(len(nominal)))
        return
    print(f"{seconds:.0f} s is too short for complete runs: each gets {share:.0%} of its budget")
    for name, budget in nominal.items():
        programs.staff("deploy", name, "--count", "1", "--budget", f"{budget * share:.1f}")


class _Programs:
    """Runs axiom-server and axiom-client as processes, each with its own folder."""

    def __init__(self, folder: Path) -> None:
        self.project = folder / "project"
        self._server: subprocess.Popen[bytes] | None = None
        self._log = folder / "server.log"
        self._environment = {
            **os.environ,
            "AXIOM_SERVER_DIR": str(self.project),
            "AXIOM_CLIENT_DIR": str(folder / "agent"),
        }

    def staff(self, *words: str, quiet: bool = False) -> str:
        """Run an axiom-server command and return what it printed."""
        line = self._command_line("axiom-server", words)
        done = subprocess.run(
            line, env=self._environment, stdout=subprocess.PIPE, text=True, check=False
        )
        if done.returncode:
            raise DemoFailed(f"{shlex.join(['axiom-server', *words])} ended with {done.returncode}")
        if not quiet:
            print(done.stdout, end="", flush=True)
        return done.stdout

    def volunteer(self, *words: str) -> None:
        """Run an axiom-client command on this terminal."""
        line = self._command_line("axiom-client", words)
        if code := subprocess.run(line, env=self._environment, check=False).returncode:
            raise DemoFailed(f"{shlex.join(['axiom-client', *words])} ended with {code}")

    def serve(self) -> str:
        """Start the server on a free loopback port, wait until it is ready, return its address."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        line = self._command_line("axiom-server", ("serve", "--port", str(port)))
        with self._log.open("wb") as log:
            self._server = subprocess.Popen(
                line, env=self._environment, stdout=log, stderr=log, start_new_session=True
            )
        address = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + READY_WITHIN_SECONDS
        while not _is_ready(f"{address}/readyz"):
            if self._server.poll() is not None or time.monotonic() > deadline:
                raise DemoFailed(f"the server did not start: {self._log.read_text()[-2000:]}")
            time.sleep(READY_POLL_SECONDS)
        return address

    def server_pid(self) -> int:
        """Process id of the running server."""
        assert self._server is not None
        return self._server.pid

    def stop(self) -> None:
        """Stop the server and its database, and wait until both have ended."""
        if self._server is None or self._server.poll() is not None:
            return
        self._server.terminate()
        try:
            self._server.wait(STOP_WITHIN_SECONDS)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()

    def _command_line(self, program: str, words: tuple[str, ...]) -> list[str]:
        print(f"$ {shlex.join([program, *words])}", flush=True)
        return [str(Path(sys.executable).parent / program), *words]


def _is_ready(address: str) -> bool:
    try:
        with urlopen(address, timeout=2) as answer:
            return bool(answer.status == 200)
    except (URLError, TimeoutError, ConnectionError):
        return False


@contextmanager
def _terminated_as_interrupt() -> Iterator[None]:
    """Treat SIGTERM and SIGHUP like Ctrl-C, so that the demo stops what it started."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {
        number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
