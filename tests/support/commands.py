"""Run a command of one of the two programs to its end.

Tests run more than a thousand of them, and half a second of each would be spent on importing the
same modules again. So a command gets a new process that is forked from one which has imported both
programs; from there on it does what the installed program does. Installed programs are started for
long runs, for the environment variables that an interpreter reads as it starts, and in the tests of
the entry points (``tests/cli/test_help.py``, ``tests/packaging``).
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from tests.support.processes import COMMAND_SECONDS_MAX

PROGRAMS = Path(sys.executable).parent
ENTRY_POINTS = {"axiom-client": "axiom_client.cli.app", "axiom-server": "axiom_server.cli.app"}
LONG_RUNS = ("run", "serve", "demo")
#: Variables that an interpreter reads as it starts.
READ_AT_START = ("PYTHON", "LC_", "LANG", "LD_")

Done = subprocess.CompletedProcess[str]
_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["tests.support.imported_programs"])


def run_command(
    program: str, *words: str, environment: Mapping[str, str], seconds: float = COMMAND_SECONDS_MAX
) -> Done:
    """Its exit code and output. Raises subprocess.TimeoutExpired."""
    if words[0] not in LONG_RUNS and _read_at_start(environment) == _read_at_start(os.environ):
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


def _read_at_start(environment: Mapping[str, str]) -> dict[str, str]:
    """But for PYTHONPATH: the modules are found already, and processes it starts will read it."""
    read = (name for name in environment if name.startswith(READ_AT_START))
    return {name: environment[name] for name in read if name != "PYTHONPATH"}


def _run_forked(line: list[str], environment: Mapping[str, str], seconds: float) -> Done:
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        process = _processes.Process(
            target=_become, args=(line, dict(environment), os.getcwd(), out, err)
        )
        process.start()
        process.join(seconds)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(line, seconds, out.read_bytes(), err.read_bytes())
        return Done(line, process.exitcode, out.read_text(), err.read_text())


def _become(
    line: list[str], environment: dict[str, str], folder: str, out: Path, err: Path
) -> None:
    """In the new process."""
    for path, stream in ((out, sys.stdout), (err, sys.stderr)):
        with path.open("wb") as file:
            os.dup2(file.fileno(), stream.fileno())
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    tempfile.tempdir = None
    sys.argv = line
    importlib.import_module(ENTRY_POINTS[line[0]]).main()
