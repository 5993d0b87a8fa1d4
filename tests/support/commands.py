"""Run commands of the two programs: to their end, or in the background.

Tests run more than a thousand of them, and half a second of each would be spent on importing the
same modules again. So a command gets a new process that is forked from one which has imported both
programs; from there on it does what the installed program does. Installed programs are started for
the environment variables that an interpreter reads as it starts, in the tests of the entry points
(``tests/cli/test_help.py``, ``tests/packaging``), as the servers of ``tests/e2e/test_main_job.py``,
and as the agents that run long in end-to-end tests.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from tests.support.processes import COMMAND_SECONDS_MAX

PROGRAMS = Path(sys.executable).parent
ENTRY_POINTS = {"axiom-client": "axiom_client.cli.app", "axiom-server": "axiom_server.cli.app"}
#: Variables that an interpreter reads as it starts.
READ_AT_START = ("PYTHON", "LC_", "LANG", "LD_")

Done = subprocess.CompletedProcess[str]
_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["tests.support.imported_programs"])


def run_command(
    program: str, *words: str, environment: Mapping[str, str], seconds: float = COMMAND_SECONDS_MAX
) -> Done:
    """Its exit code and output. Raises subprocess.TimeoutExpired."""
    if can_fork(environment):
        return _run_forked([program, *words], environment, seconds)
    return finished([str(PROGRAMS / program), *words], environment, seconds)


def finished(
    line: list[str], environment: Mapping[str, str], seconds: float = COMMAND_SECONDS_MAX
) -> Done:
    """The same of any command line, in a process that is no fork."""
    return subprocess.run(
        line, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        check=False, timeout=seconds,
    )  # fmt: skip


def can_fork(environment: Mapping[str, str]) -> bool:
    """Whether an interpreter that starts with these variables is as the one forked from."""
    return _read_at_start(environment) == _read_at_start(os.environ)


def _read_at_start(environment: Mapping[str, str]) -> dict[str, str]:
    return {k: v for k, v in environment.items() if k.startswith(READ_AT_START)}


def _run_forked(line: list[str], environment: Mapping[str, str], seconds: float) -> Done:
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        process = ForkedProcess(line, environment, out, err)
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
        return Done(line, code, out.read_text(), err.read_text())


class ForkedProcess:
    """A command that runs, with what tests use of subprocess.Popen; output is added to files."""

    def __init__(
        self, line: list[str], environment: Mapping[str, str], out: Path, err: Path
    ) -> None:
        for file in (out, err):
            file.touch()  # it may be read before the process writes to it
        given = (line, dict(environment), os.getcwd(), out, err)
        self._line = line
        self._process = _processes.Process(target=_become, args=given, daemon=True)
        self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """The exit code. Raises subprocess.TimeoutExpired."""
        self._process.join(timeout)
        code = self._process.exitcode
        if code is None:
            raise subprocess.TimeoutExpired(self._line, timeout or 0.0)
        return code

    def send_signal(self, number: int) -> None:
        """Nothing is sent to a process that has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """As a power cut would."""
        self.send_signal(signal.SIGKILL)


def _become(
    line: list[str], environment: dict[str, str], folder: str, out: Path, err: Path
) -> None:
    """In the new process."""
    for path, stream in ((out, sys.stdout), (err, sys.stderr)):
        with path.open("ab") as file:
            os.dup2(file.fileno(), stream.fileno())
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    tempfile.tempdir = None
    sys.argv = line
    importlib.import_module(ENTRY_POINTS[line[0]]).main()
