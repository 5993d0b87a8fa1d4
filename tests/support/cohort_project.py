"""A served project whose experiment runs in cohorts, and agents that share one core among seeds."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from axiom_client.control.server import Request, ask, request_snapshot
from axiom_client.control.snapshot import Snapshot, TaskView
from axiom_client.folders import Folders
from axiom_server.config import read_config
from axiom_server.project_folder import ProjectFolder
from axiom_server.store import tasks as stored_tasks
from tests.support.agent_process import AgentProcess
from tests.support.cluster import transaction
from tests.support.processes import wait_for
from tests.support.programs import FIXTURES, Server, server
from tests.support.server_project import ServerProject

WALK = FIXTURES / "experiments" / "cohort_walk.py"
#: Hosts ask often, and the test decides when leases expire and results are compared.
CONFIG = """
[serve]
sync_seconds = 2.0
idle_sync_seconds = 1.0
round_seconds = 3600.0
"""
TASK = """SELECT t.task_id, t.host_id, p.parameters, t.state, t.outcome, t.elapsed_seconds,
                 t.message, r.result
          FROM tasks t JOIN workunits w USING (workunit_id)
          JOIN parameter_sets p USING (parameters_id) LEFT JOIN results r USING (task_id)
          WHERE w.deployment_id = %s ORDER BY t.task_id"""


@dataclass(frozen=True)
class StoredTask:
    """What the server has of one task."""

    task_id: int
    host_id: int
    parameters: dict[str, Any]
    state: str
    outcome: str | None
    elapsed_seconds: float | None
    message: str
    result: dict[str, Any] | None


@dataclass
class Deployment:
    """Some workunits, and the tasks that were made of them."""

    data: ServerProject
    deployment_id: int
    count: int

    def tasks(self) -> list[StoredTask]:
        """All tasks, in order."""
        return [StoredTask(*values) for values in self.data.rows(TASK, self.deployment_id)]

    def ended(self) -> list[StoredTask]:
        """Those that were reported."""
        return [task for task in self.tasks() if task.state in ("reported", "reviewed")]

    def succeeded(self) -> bool:
        """Whether there is a result of each workunit."""
        return sum(task.outcome == "success" for task in self.ended()) == self.count


@dataclass
class CohortProject:
    """The server program, and its database."""

    server: Server
    data: ServerProject

    def deploy(self, count: int, *more: dict[str, Any], **parameters: Any) -> Deployment:
        """Make so many workunits for any host, with these parameters and with ``more``."""
        sets = (parameters, *more)
        made = self.data.deploy("cohort_walk", count=count, parameters=sets)
        assert made.deployment_id is not None
        return Deployment(self.data, made.deployment_id, count * len(sets))

    def expire(self) -> None:
        """End the leases whose time is over."""
        transaction(self.data.conninfo, lambda c: stored_tasks.expire(c, 86400.0))


def cohort_project(folder: Path) -> CohortProject:
    """A new project with the cohort walk. It is served until ``server`` is stopped."""
    made = server(folder)
    config = made.folder / "project.toml"
    config.write_text(CONFIG)
    made.serve()
    try:
        made.run("publish", str(WALK), "--skip", "dry-run")
        conninfo = ProjectFolder(made.folder).embedded().conninfo
        return CohortProject(made, ServerProject(conninfo, read_config(config)))
    except BaseException:
        made.kill()
        raise


class CohortHost(AgentProcess):
    """A real agent with one core, which all seeds in hand share."""

    def __init__(self, folder: Path, project: CohortProject, user: str) -> None:
        super().__init__(folder)
        base = self.folder
        self.folders = Folders(config=base / "config", state=base / "state", cache=base / "cache")
        key = project.server.json("users", "add", user)["account_key"]
        self.ok("attach", project.server.url, "--account-key", key)
        self.host_id: int = project.data.value("SELECT max(host_id) FROM hosts")

    def begin(self, buffer: str = "1 h") -> None:
        """Run with one core, and so many seconds of work in hand."""
        self.start("--set", "cpu.cores=1", "--set", f"work.buffer={buffer}")
        wait_for("the agent's socket", self._answers)

    def _answers(self) -> bool:
        try:
            self.snapshot()
        except Exception:  # noqa: BLE001  it has not started, or has a socket of its last run
            return False
        return True

    def snapshot(self) -> Snapshot:
        """The agent's state."""
        return request_snapshot(self.folders.control_socket)

    def ask(self, do: Any, **fields: Any) -> None:
        """What the command of this name sends."""
        ask(self.folders.control_socket, Request(do=do, **fields))

    def views(self, state: str) -> list[TaskView]:
        """The tasks in a state."""
        return [task for task in self.snapshot().tasks if task.state == state]

    def folder_of(self, task_id: int) -> Path:
        """The folder of one task."""
        return self.folders.tasks / str(task_id)

    def hold(self, count: int) -> list[int]:
        """Wait until a cohort of this size runs and saves its states; its tasks."""
        now = time.time()

        def held() -> list[int]:
            ids = [task.task_id for task in self.views("running")]
            return ids if len(ids) == count and all(self._saved(i, now) for i in ids) else []

        return wait_for(f"a cohort of {count}", held)

    def _saved(self, task_id: int, since: float) -> bool:
        try:
            return (self.folder_of(task_id) / "checkpoint.npz").stat().st_mtime >= since
        except FileNotFoundError:
            return False

    def release(self, task_ids: list[int]) -> None:
        """Let these tasks go on, also when they run again."""
        for task_id in task_ids:
            if self.folder_of(task_id).exists():
                (self.folder_of(task_id) / "go").touch()

    def cohort_process(self) -> psutil.Process:
        """The process that works in the folder of a task."""
        found = [p for p in self.processes() if Path(p.cwd()).parent == self.folders.tasks]
        [process] = found
        return process

    def idle(self) -> None:
        """Wait until no task is in hand."""
        wait_for("no task to be in hand", lambda: not self.snapshot().tasks)
