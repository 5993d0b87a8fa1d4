"""Our own agent and server: `axiom-server serve` on embedded PostgreSQL, `axiom-client run`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import msgspec
import psycopg

from axiom_protocol import __version__
from axiom_server.project_folder import ProjectFolder
from benchmarks import load
from benchmarks.peers.driver import Driver, Outcome
from benchmarks.peers.tasks import WORKS, Span, experiment_source

RECEIVED = """
SELECT extract(epoch FROM ended_at)::float8 FROM tasks
WHERE ended_at IS NOT NULL AND extract(epoch FROM ended_at) >= %s ORDER BY ended_at"""


class Axiom(Driver):
    """A new host for each host's part; each run of tasks is one `axiom-client run --until-idle`."""

    name = "Axiom"
    isolation = "a confined process for each task"
    install = "this repository"

    def __init__(self, folder: Path, slots: int) -> None:
        super().__init__(folder, slots)
        self._stack = ExitStack()
        self._host: Path | None = None
        self._hosts = 0
        self._running: subprocess.Popen[bytes] | None = None

    @classmethod
    def version(cls) -> str:
        """The version of this repository."""
        return __version__

    def start_server(self) -> None:
        """Make a project, publish the tasks, and serve."""
        self._project = self._stack.enter_context(load.project())
        scripts = []
        for work in WORKS:
            scripts.append(self.folder / f"{work}.py")
            scripts[-1].write_text(experiment_source(work))
        load.staff(self._project, "publish", "--skip", "dry-run", *map(str, scripts))
        self._port = self._stack.enter_context(load.serving(self._project))

    def start_host(self) -> None:
        """Attach a new host, and run its agent."""
        self._attach()
        self._running = subprocess.Popen(
            self._line("run", "--no-display"), env=self._environment(), stdout=subprocess.DEVNULL
        )

    def _attach(self) -> None:
        self._hosts += 1
        self._host = self.folder / f"host-{self._hosts}"
        join = self._line("attach", f"http://127.0.0.1:{self._port}")
        load.join_and_vouch(self._project, join, self._environment())

    def stop_host(self) -> None:
        """End the agent; the next run is of a new host."""
        if self._running is not None:
            self._running.send_signal(signal.SIGTERM)
            self._running.wait(timeout=60)
            self._running = None
        self._host = None

    def run(self, work: str, count: int) -> Outcome:
        """Deploy the tasks, run the agent until it has reported all, and review."""
        submitted = time.time()
        if self._host is None:  # a new host finds its work waiting; deploying is not its time
            load.staff(self._project, "deploy", work, "--count", str(count), "--budget", "1")
            self._attach()
        else:
            load.staff(self._project, "deploy", work, "--count", str(count), "--budget", "1")
        assert self._host is not None
        events = self._host / f"events-{time.monotonic_ns()}"
        self._agent("run", "--until-idle", "--no-display", "--record-events", str(events))
        load.staff(self._project, "review")
        credited = time.monotonic()
        return Outcome(spans=_spans(events), received=self._received(submitted), credited=credited)

    def _received(self, since: float) -> list[float]:
        """When the server stored each report, by its clock, converted to monotonic seconds."""
        cluster = ProjectFolder(self._project).embedded()
        offset = time.monotonic() - time.time()
        with psycopg.connect(cluster.conninfo) as db:
            return [at + offset for (at,) in db.execute(RECEIVED, (since,)).fetchall()]

    def _agent(self, *words: str) -> None:
        subprocess.run(
            self._line(*words), env=self._environment(), stdout=subprocess.DEVNULL, check=True
        )

    def _line(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "axiom_client", *words]

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "AXIOM_CLIENT_DIR": str(self._host), "PYTHONPATH": str(load.ROOT)}

    def close(self) -> None:
        """Stop the agent and the server."""
        self.stop_host()
        self._stack.close()


def _spans(events: Path) -> list[Span]:
    """The spans in the results that the agent recorded."""
    found = []
    for event in map(msgspec.json.decode, events.read_bytes().splitlines()):
        if event.get("type") == "TaskEnded" and (result := event["finished"].get("result")):
            found.append(Span(result["began"], result["ended"], int(result["pid"])))
    return sorted(found)


DRIVER = Axiom
