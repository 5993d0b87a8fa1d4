"""Real programs after an agent's folder was copied, and a server restored from an older backup."""

from __future__ import annotations

import re
import shutil
from functools import partial
from pathlib import Path

import psycopg
import pytest

from axiom_server.project_folder import ProjectFolder
from tests.support.processes import wait_for
from tests.support.programs import Program, Server, agent, free_port, server

QUICK = '''"""Quick: a number that depends on the seed."""

# /// script
# requires-python = ">=3.11"
# dependencies = ["numpy"]
#
# [tool.axiom]
# name = "quick"
# version = "1.0.0"
# title = "Quick"
# question = "Is it counted once?"
# resources = { memory_bytes = 100_000_000, disk_bytes = 1_000_000 }
# expected_seconds = 2
#
# [tool.axiom.parameters]
# seconds = { default = 1.0, min = 0.0, max = 1000.0 }
#
# [tool.axiom.result]
# valid = { kind = "flag" }
# configs_done = { kind = "integer", min = 1, max = 3 }
# value = { min = -10.0, max = 10.0, rtol = 1e-8 }
# ///
import time


def run(task):
    end = time.monotonic() + task.parameters["seconds"]
    while time.monotonic() < end:
        time.sleep(0.05)
    return {"valid": 1, "configs_done": 1, "value": float(task.rng(0).standard_normal())}
'''
CONFIG = """[project]
name = "Days"
[serve]
sync_seconds = 3.0
idle_sync_seconds = 1.0
round_seconds = 1.0
"""


@pytest.fixture
def programs(tmp_path: Path):  # type: ignore[no-untyped-def]
    """A serving project with one experiment, and an attached agent; all are stopped at the end."""
    made = server(tmp_path)
    (made.folder / "project.toml").write_text(CONFIG)
    for name, seconds in (("quick", "1.0"), ("slow", "4.0")):
        script = tmp_path / f"{name}.py"
        script.write_text(QUICK.replace('"quick"', f'"{name}"').replace("= 1.0,", f"= {seconds},"))
        made.run("publish", "--skip", "dry-run", str(script))
    made.serve()
    first = agent(tmp_path)
    first.environment |= {"AXIOM_CPU_CORES": "2", "AXIOM_WORK_BUFFER": "4 s"}
    first.run("attach", made.url, "--user", "Ann")
    started: list[Program] = [made, first]
    yield made, first, started
    for program in reversed(started):
        program.stop()


wait = partial(wait_for, seconds=300.0)  # a loaded machine starts a program in half a minute


def log(program: Program) -> str:
    return (program.folder.parent / "axiom-client.log").read_text()


def rows(project: Server, query: str) -> list[tuple[object, ...]]:
    conninfo = ProjectFolder(project.folder).embedded().conninfo
    with psycopg.connect(conninfo) as connection:
        return connection.execute(query).fetchall()  # type: ignore[arg-type]


def credited(project: Server) -> list[tuple[object, ...]]:
    return rows(project, "SELECT task_id FROM credit")


def reported(project: Server) -> int:
    [[count]] = rows(project, "SELECT count(*) FROM tasks WHERE outcome = 'success'")
    return int(str(count))


def test_a_folder_that_was_copied_while_it_ran_becomes_a_host_of_its_own(
    tmp_path: Path, programs: tuple[Server, Program, list[Program]]
) -> None:
    project, first, started = programs
    project.run("deploy", "slow", "--count", "10")
    first.start("run", "--no-display")
    wait("tasks to run", lambda: "granted" in log(first))
    folder = tmp_path / "b" / "a"  # short, because of the path of a socket in it
    shutil.copytree(
        first.folder, folder, ignore=lambda d, names: [n for n in names if n.endswith(".sock")]
    )
    copy = Program(name="axiom-client", folder=folder, variable="AXIOM_CLIENT_DIR",
                   environment=dict(first.environment))  # fmt: skip
    started.append(copy)
    copy.start("run", "--no-display")
    wait("the copy to join", lambda: "is now host 2 of the same account" in log(copy))
    wait("all to be done", lambda: reported(project) == 10)
    assert "cancelled by the server" not in log(first) + log(copy)
    assert rows(project, "SELECT count(DISTINCT user_id), count(*) FROM hosts") == [(1, 2)]
    assert rows(project, "SELECT count(*) FROM tasks WHERE state = 'lost'") == [(0,)]


def test_results_since_the_backup_are_reported_again_and_credited_once(
    tmp_path: Path, programs: tuple[Server, Program, list[Program]]
) -> None:
    project, first, started = programs
    project.run("deploy", "quick", "--count", "6")
    first.start("run", "--no-display")
    wait("the first results", lambda: reported(project) == 6)
    project.run("backup", str(tmp_path / "b.tar.gz"), "--with-keys")
    project.run("deploy", "quick", "--count", "6")
    wait("more results", lambda: reported(project) == 12)
    before = rows(project, "SELECT task_id FROM tasks")
    project.stop()
    restored = Server(name="axiom-server", folder=tmp_path / "restored", port=project.port,
                      variable="AXIOM_SERVER_DIR")  # fmt: skip
    restored.run("restore", str(tmp_path / "b.tar.gz"), str(restored.folder))
    started.append(restored)
    restored.serve()
    wait("the results again", lambda: reported(restored) == 12)
    restored.run("deploy", "quick", "--count", "4")
    wait("new results", lambda: reported(restored) == 16)
    for _ in range(2):
        restored.run("review", "--json")
    assert rows(restored, "SELECT count(*), count(DISTINCT task_id) FROM credit") == [(16, 16)]
    assert rows(restored, "SELECT count(*) FROM workunits") == [(16,)]
    new = rows(restored, "SELECT task_id FROM tasks ORDER BY task_id DESC LIMIT 10")
    assert not set(new) & set(before)
    assert re.search(r"restored from a backup; \d+ results? reported again", log(first))


def test_a_host_that_joined_after_the_backup_joins_again(
    tmp_path: Path, programs: tuple[Server, Program, list[Program]]
) -> None:
    project, first, started = programs
    project.run("backup", str(tmp_path / "b.tar.gz"), "--with-keys")
    late = agent(tmp_path / "b", "a")
    late.run("attach", project.url, "--user", "Late")
    project.run("deploy", "quick", "--count", "4")
    started.append(late)
    late.start("run", "--no-display")
    wait("results", lambda: reported(project) == 4)
    project.stop()
    restored = Server(name="axiom-server", folder=tmp_path / "restored", port=free_port(),
                      variable="AXIOM_SERVER_DIR")  # fmt: skip
    restored.port = project.port
    restored.run("restore", str(tmp_path / "b.tar.gz"), str(restored.folder))
    started.append(restored)
    restored.serve()
    wait("the results again", lambda: reported(restored) == 4)
    assert restored.json("review")["credit"] == 0, "another account has to check them"
    first.start("run", "--no-display")
    wait("the checks", lambda: reported(restored) == 8)
    wait("the credit", lambda: restored.json("review") and len(credited(restored)) == 8)
    assert "of the same account" in log(late)
