"""Starts the agent as one of its versions, and undoes a version that does not become healthy.

``axiom-client run`` becomes this process where ``update.enabled`` is set. It is the installation's
code, which no update changes, and imports little. The record is written before a version is
started, so that a version that stops the computer is undone after some starts.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from types import FrameType

assert sys.platform != "win32"

from axiom_client.decide.update import (
    Ended,
    Start,
    UpdateRecord,
    judge,
    keep,
    next_start,
    undo,
    why_undone,
)
from axiom_client.errors import AxiomError
from axiom_client.folders import find_folders
from axiom_client.releases.folder import ReleaseFolder
from axiom_client.releases.link import VARIABLE
from axiom_client.releases.posix_watch import Watch
from axiom_client.releases.relay import NotifyRelay
from axiom_client.storage import translate_storage_errors
from axiom_client.system.child_environment import child_environment
from axiom_protocol import __version__
from axiom_protocol.standard_streams import prepare_standard_streams

GRACE_SECONDS = 10.0  # for a version that is undone to end by itself
SIGNAL_CODE = 128  # added to a signal's number, as shells do


def command(trial_seconds: float, words: Sequence[str]) -> list[str]:
    """The command line of the launcher of ``axiom-client run WORDS``."""
    module = "axiom_client.releases.posix_launcher"
    return [sys.executable, "-P", "-m", module, f"{trial_seconds:g}", *words]


def main() -> None:
    """Run the launcher to its end, with the agent's exit code."""
    prepare_standard_streams()
    seconds, *words = sys.argv[1:]
    try:
        with translate_storage_errors():
            launcher = Launcher(ReleaseFolder(find_folders().releases), words, float(seconds))
            code = launcher.run()
    except AxiomError as error:
        print(f"axiom-client: {error}", file=sys.stderr)
        code = error.exit_code
    sys.exit(code)


class Launcher:
    """Starts versions of the agent until one ends for good."""

    def __init__(self, folder: ReleaseFolder, words: Sequence[str], trial_seconds: float) -> None:
        self._folder = folder
        self._words = words
        self._trial_seconds = trial_seconds
        self._asked = False  # a person or the service manager wants the agent to stop
        self._agent: subprocess.Popen[bytes] | None = None
        self._wake, self._woken = socket.socketpair()

    def run(self) -> int:
        """The exit code of the last agent. Raises AlreadyRunning."""
        with self._folder.lock():
            self._take_signals()
            while True:
                start = self._next()
                ended = self._run(start)
                verdict = judge(start, ended)
                if verdict == "undo":
                    self._undo(start, why_undone(ended, self._trial_seconds))
                if verdict == "end" or self._asked:
                    code = ended.code or 0
                    return code if code >= 0 else SIGNAL_CODE - code

    # --- the record -------------------------------------------------------------------------------

    def _next(self) -> Start:
        """The next version to start, after the record says so. Versions that changed are undone."""
        while True:
            chosen: list[Start] = []

            def choose(record: UpdateRecord, chosen: list[Start] = chosen) -> UpdateRecord:
                record, start = next_start(record, __version__, time.time())
                chosen.append(start)
                return record

            self._folder.change_record(choose)
            start = chosen[0]
            problem = self._folder.check(start.version) if start.release else ""
            if not problem:
                return start
            self._undo(start, problem)

    def _undo(self, start: Start, why: str) -> None:
        print(f"axiom-client {start.version} is undone: {why}", file=sys.stderr, flush=True)
        self._folder.change_record(
            lambda record: undo(record, start.version, __version__, why, time.time())
        )

    # --- one version ------------------------------------------------------------------------------

    def _run(self, start: Start) -> Ended:
        """Start a version, and wait for its end or the end of its trial."""
        ours, theirs = socket.socketpair()
        environment = self._environment(start, theirs.fileno())
        relay = NotifyRelay(self._folder.notify_socket, environment)
        line = [sys.executable, "-P", "-m", "axiom_client", "run", *self._words]
        with ours, theirs:
            self._agent = subprocess.Popen(
                line, env=environment, pass_fds=[theirs.fileno()], process_group=0
            )
            try:
                theirs.close()
                watch = Watch(self._agent, ours, self._woken, relay)
                seconds = self._trial_seconds if start.trial else None
                return watch.wait(start.version, seconds, lambda: self._asked, self._keep)
            finally:
                self._end_agent()
                relay.close()

    def _environment(self, start: Start, link: int) -> dict[str, str]:
        environment = child_environment(**{VARIABLE: str(link)})
        if start.release:
            library = str(self._folder.libraries(start.version))
            others = environment.get("PYTHONPATH")
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, [library, others]))
        return environment

    def _keep(self, version: str) -> None:
        self._folder.change_record(lambda record: keep(record, version))

    def _end_agent(self) -> None:
        agent, self._agent = self._agent, None
        if agent is None or agent.poll() is not None:
            return
        agent.terminate()
        try:
            agent.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            agent.kill()
            agent.wait()

    # --- signals ----------------------------------------------------------------------------------

    def _take_signals(self) -> None:
        """Pass signals on to the agent, which is in a process group of its own."""
        self._wake.setblocking(False)
        self._woken.setblocking(False)
        signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, self._pass_on)

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGCHLD:
            return
        self._asked = self._asked or number != signal.SIGHUP
        if self._agent is not None and self._agent.poll() is None:
            self._agent.send_signal(number)


if __name__ == "__main__":
    main()
