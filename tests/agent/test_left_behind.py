"""The real agent with tasks that leave files behind: each is reported, and no file remains."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.agent_process import AgentProcess
from tests.support.small_project import WALK, SmallProject, served

pytestmark = pytest.mark.e2e

STARTS_MAX = 8  # one start deletes for two seconds beyond its work; a disk may be slow
NEST = "import os\n    for i in range({}):\n        os.mkdir('{}'); os.chdir('{}')"
CASES = {
    "1.0.1": ("import os; os.kill(os.getpid(), 40)", "failed"),
    "1.0.2": (NEST.format(1100, "a", "a") + "\n    import time; time.sleep(30)", "over_disk"),
    "1.0.3": (NEST.format(22, "a" * 200, "a" * 200), "success"),
    "1.0.4": ("import os; os.mkdir('x', 0)", "success"),
    "1.0.5": ("pass", "success"),
}


def experiment(version: str, body: str) -> bytes:
    text = WALK.read_text().replace('version = "1.0.0"', f'version = "{version}"')
    return text.replace("def run(task):\n", f"def run(task):\n    {body}\n", 1).encode()


def test_every_task_has_an_outcome_and_no_folder_stays(tmp_path: Path) -> None:
    project = SmallProject(tmp_path / "project")
    expected = {}
    for version, (body, outcome) in CASES.items():
        [task_id] = project.deploy(project.publish(experiment(version, body)), 1)
        expected[task_id] = outcome
    agent = AgentProcess(tmp_path / "agent")
    tasks = tmp_path / "agent" / "state" / "tasks"
    try:
        with served(project) as url:
            agent.ok("attach", url)
            agent.ok("run", "--no-display", "--until-idle")
            assert project.outcomes() == expected
            leave_behind(tasks)
            for _ in range(STARTS_MAX):
                if os.listdir(tasks):
                    agent.ok("run", "--no-display", "--until-idle")
        assert os.listdir(tasks) == []
    finally:
        agent.close()
        subprocess.run(["rm", "-rf", tasks], check=True)  # pytest's own cleaning is recursive


def leave_behind(tasks: Path) -> None:
    """What an agent that was killed may find when it starts again."""
    for name in ("123", "²", "99999999999999999999999", ".hidden", "removed-1"):
        (tasks / name).mkdir()
        descriptor = os.open(tasks / name, os.O_RDONLY)
        for _ in range(1100 if name == "123" else 40):
            os.mkdir("a", dir_fd=descriptor)
            inner = os.open("a", os.O_RDONLY, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
        os.close(descriptor)
    (tasks / "file").write_text("not a folder")
