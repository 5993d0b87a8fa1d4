"""Starts a process inside a job object and an AppContainer, and ends both together.

The process is created suspended and put into its job before its first instruction, so no moment
exists in which it runs without limits. Windows ends it when the last handle of the job is closed,
which happens however the agent ends.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence

from axiom_client.sandbox import windows_calls as calls
from axiom_client.sandbox import windows_container
from axiom_client.sandbox.windows import JobAttributes
from axiom_client.sandbox.windows_container import Container

#: The exit code of a process that the agent ended; it tells it from an exit of its own.
ENDED_BY_AGENT = 0x2A58_0009


class ConfinedProcess:
    """A process in a job of its own. Raises OSError when it cannot be started.

    handles     its standard input, output and error; the caller closes its own copies
    container   its AppContainer, closed with the process; None only where tests do without one
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        folder: str,
        handles: tuple[int, int, int],
        job: JobAttributes,
        container: Container | None,
    ) -> None:
        self._container = container
        self._job = calls.create_job()
        self._process = 0
        try:
            calls.limit_job(self._job, job)
            self.pid = self._start(command, environment, folder, handles)
        except BaseException:
            self.close()
            raise

    def _start(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        folder: str,
        handles: tuple[int, int, int],
    ) -> int:
        sids = (self._container.sid, self._container.capabilities) if self._container else None
        with _inheritable(handles):
            made = calls.create_suspended(
                subprocess.list2cmdline(command), _block(environment), folder, handles, sids
            )
        self._process = made.process
        try:
            calls.assign(self._job, made.process)
            calls.resume(made.thread)
        except OSError:
            calls.terminate(made.process, ENDED_BY_AGENT)  # it has not run yet
            raise
        finally:
            calls.close_handle(made.thread)
        return made.pid

    def exit_code(self, wait_ms: int = 0) -> int | None:
        """Its exit code; None while it runs."""
        return calls.exit_code(self._process, wait_ms)

    def limit(self, job: JobAttributes) -> None:
        """Change how much memory and CPU time it may use. Raises OSError."""
        calls.change_limits(self._job, job)

    def open_folders(self, folders: Sequence[str]) -> None:
        """Let its AppContainer use these folders from now on. Raises SandboxError."""
        if self._container is not None:
            windows_container.open_folders(self._container, folders)

    def receive(self, handles: Sequence[int]) -> list[int]:
        """Its own handles of these objects. Raises OSError."""
        return [calls.duplicate(handle, self._process) for handle in handles]

    def usage(self) -> calls.JobUsage:
        """What it has used."""
        return calls.job_usage(self._job)

    def kill(self) -> None:
        """End it at once."""
        calls.terminate_job(self._job, ENDED_BY_AGENT)

    def kill_and_close(self) -> None:
        """End it if it still runs, and close every handle."""
        self.close()  # with the job's last handle, Windows ends what is in the job

    def close(self) -> None:
        """Close every handle, which ends the process if it still runs."""
        for handle in (self._process, self._job):
            if handle:
                calls.close_handle(handle)
        self._process = self._job = 0
        if self._container is not None:
            self._container.close()
            self._container = None


@contextlib.contextmanager
def _inheritable(handles: Sequence[int]) -> Iterator[None]:
    for handle in handles:
        calls.set_inheritable(handle, True)
    try:
        yield
    finally:
        for handle in handles:
            calls.set_inheritable(handle, False)


def _block(environment: Mapping[str, str]) -> str:
    """The environment as CreateProcess takes it: sorted by name, without regard to case."""
    known = dict(environment)
    for name in ("SYSTEMROOT", "SYSTEMDRIVE"):  # libraries of Windows are found by them
        if name in os.environ:
            known.setdefault(name, os.environ[name])
    lines = (f"{name}={known[name]}\0" for name in sorted(known, key=str.upper))
    return "".join(lines) + "\0"
