"""The main job on one machine: a project, its experiments, this host as a volunteer, a session log.

It runs the same commands that staff and volunteers type, as processes, and prints each of them.
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

READY_WITHIN_SECONDS = 60.0  # initdb and migrations take two on an idle machine
READY_POLL_SECONDS = 0.1
STOP_WITHIN_SECONDS = 20.0  # serve drains, then PostgreSQL makes its checkpoint
REVIEW_SECONDS = 12.0  # kept back from --seconds for the last reports, review and log
BUSY_SHARE = 0.85  # of the cores' time that runs get: others want some, and the last run ends alone
VOLUNTEER = "Demo volunteer"


class DemoFailed(ServerError):
    """A step of the demonstration did not work; the message names the command."""

    exit_code = 1


def library() -> dict[Path, float]:
    """The repository's experiments, or the copy that the wheel carries, with their nominal seconds.

    The longest first: begun in this order, they keep two cores busy to the end.
    """
    here = Path(__file__).resolve().parents[1]
    for folder in (here / "library", here.parent / "experiments"):
        found = {p: read_manifest(p.read_text()).expected_seconds for p in folder.glob("*.py")}
        if found:
            return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))
    raise DemoFailed("no experiments found; run the demo from a checkout or an installed wheel")


def run_demo(seconds: float, keep: bool) -> None:
    """Run the main job within about ``seconds``; with ``keep`` leave the server up.

    Raises DemoFailed when a step fails. Nothing is left running or lying about unless ``keep``.
    """
    until = time.monotonic() + seconds
    folder = Path(tempfile.mkdtemp(prefix="axiom-demo-"))
    programs = _Programs(folder)
    try:
        with _terminated_as_interrupt():
            _play(programs, until, keep)
    finally:
        if not keep:
            programs.stop()
            shutil.rmtree(folder, ignore_errors=True)


def _play(programs: _Programs, until: float, keep: bool) -> None:
    programs.staff("init", str(programs.project), "--name", "Axiom demo")
    # Two dry runs of each would take a third of the time: here the runs themselves are the first.
    programs.staff("publish", "--skip", "dry-run", *map(str, library()))
    address = programs.serve()
    programs.volunteer("attach", address, "--user", VOLUNTEER)
    left = max(5.0, until - time.monotonic() - REVIEW_SECONDS)
    _deploy_one_of_each(programs, left)
    programs.volunteer("run", "--until-idle", "--display", "--seconds", f"{left:.0f}")
    programs.staff("review", quiet=True)
    print(programs.staff("log", quiet=True))
    if keep:
        print(f"The server is still up: {address} (process {programs.server_pid()})")
        print(f"Its folder: {programs.project}")
        print(f"Stop it with: kill {programs.server_pid()}")


def _deploy_one_of_each(programs: _Programs, seconds: float) -> None:
    """One workunit of every experiment, at a smaller budget where the whole one would not fit."""
    nominal = {path.stem: seconds for path, seconds in library().items()}
    share = BUSY_SHARE * (os.cpu_count() or 1) * seconds / sum(nominal.values())
    if share >= 1:
        programs.staff("deploy", *nominal, "--count", str(len(nominal)))
        return
    print(f"{seconds:.0f} s is too short for whole runs: each gets {share:.0%} of its budget")
    for name, budget in nominal.items():
        programs.staff("deploy", name, "--count", "1", "--budget", f"{budget * share:.1f}")


class _Programs:
    """The two programs as processes, each with its own folder."""

    def __init__(self, folder: Path) -> None:
        self.project = folder / "project"
        self._serving: subprocess.Popen[bytes] | None = None
        self._log = folder / "server.log"
        self._environment = {
            **os.environ,
            "AXIOM_SERVER_DIR": str(self.project),
            "AXIOM_CLIENT_DIR": str(folder / "agent"),
        }

    def staff(self, *words: str, quiet: bool = False) -> str:
        """Run a command of axiom-server to its end; returns what it printed."""
        line = self._line("axiom-server", words)
        done = subprocess.run(
            line, env=self._environment, stdout=subprocess.PIPE, text=True, check=False
        )
        if done.returncode:
            raise DemoFailed(f"{shlex.join(['axiom-server', *words])} ended with {done.returncode}")
        if not quiet:
            print(done.stdout, end="", flush=True)
        return done.stdout

    def volunteer(self, *words: str) -> None:
        """Run a command of axiom-client to its end, on this terminal."""
        line = self._line("axiom-client", words)
        if code := subprocess.run(line, env=self._environment, check=False).returncode:
            raise DemoFailed(f"{shlex.join(['axiom-client', *words])} ended with {code}")

    def serve(self) -> str:
        """Start the server on a free port of the loopback and wait until it answers."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        line = self._line("axiom-server", ("serve", "--port", str(port)))
        with self._log.open("wb") as log:
            self._serving = subprocess.Popen(
                line, env=self._environment, stdout=log, stderr=log, start_new_session=True
            )
        address = f"http://127.0.0.1:{port}"
        until = time.monotonic() + READY_WITHIN_SECONDS
        while not _answers(f"{address}/readyz"):
            if self._serving.poll() is not None or time.monotonic() > until:
                raise DemoFailed(f"the server did not start: {self._log.read_text()[-2000:]}")
            time.sleep(READY_POLL_SECONDS)
        return address

    def server_pid(self) -> int:
        assert self._serving is not None
        return self._serving.pid

    def stop(self) -> None:
        """End the server, and wait until it and its database are gone."""
        if self._serving is None or self._serving.poll() is not None:
            return
        self._serving.terminate()
        try:
            self._serving.wait(STOP_WITHIN_SECONDS)
        except subprocess.TimeoutExpired:
            self._serving.kill()
            self._serving.wait()

    def _line(self, program: str, words: tuple[str, ...]) -> list[str]:
        print(f"$ {shlex.join([program, *words])}", flush=True)
        return [str(Path(sys.executable).parent / program), *words]


def _answers(address: str) -> bool:
    try:
        with urlopen(address, timeout=2) as answer:
            return bool(answer.status == 200)
    except (URLError, TimeoutError, ConnectionError):
        return False


@contextmanager
def _terminated_as_interrupt() -> Iterator[None]:
    """Let SIGTERM and a closed terminal unwind like Ctrl-C, so that what was started is ended."""

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
