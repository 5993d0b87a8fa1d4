"""The main workflow end to end: publish, deploy, attach, run, review, also with crashes."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import served
from tests.support import programs
from tests.support.processes import still_running, wait_for
from tests.support.programs import FIXTURES, Program, Server

KILL_SECONDS_MAX = 5.0  # a second on an idle machine; a loaded one has to schedule them first
WALK = FIXTURES / "experiments" / "short_walk.py"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with served(tmp_path, installed=True) as made:
        yield made


def test_published_work_is_run_reported_credited_once(server: Server, agent: Program) -> None:
    server.run("publish", str(WALK))
    agent.run("attach", server.url, "--user", "Ada")
    server.run("deploy", "short_walk", "--count", "6")
    agent.run("run", "--until-idle", "--no-display")

    review = server.json("review")
    assert review["results"] == 6
    assert review["credit"] == 12
    assert review["users"] == {"Ada": 12}
    assert server.json("review")["results"] == 0

    log = server.run("log")
    assert "Ada: +12" in log
    assert "short_walk" in log

    server.run("deploy", "short_walk", "--count", "1")
    log = server.run("log")  # what was deployed after the review is new in this session
    assert "Dry run in the sandbox: 2 runs of seed 1, the same bytes, " in log


def test_fill_idle_deploys_to_the_cores_of_a_live_host(server: Server, agent: Program) -> None:
    server.run("publish", str(WALK))
    agent.run("attach", server.url)
    agent.start("run", "--no-display")
    wait_for("the host to be live", lambda: server.json("hosts"))
    deployed = server.json("deploy", "short_walk", "--fill-idle")
    assert deployed["workunits"] == os.cpu_count()
    wait_for("the results", lambda: pending(server) == os.cpu_count())


def test_fill_idle_before_any_host_waits_for_the_first(server: Server, agent: Program) -> None:
    server.run("publish", str(WALK))
    early = server.json("deploy", "short_walk", "--fill-idle")
    assert (early["workunits"], early["standing"]) == (0, True)
    server.json("deploy", "short_walk", "--fill-idle")  # requested twice, filled once

    agent.run("attach", server.url)
    agent.run("run", "--until-idle", "--no-display")
    assert pending(server) == os.cpu_count()


def pending(server: Server) -> int:
    """Results that wait for review."""
    found: int = server.json("status")["totals"]["to_review"]
    return found


def test_killed_agent_runs_its_task_again_and_reports_it_once(
    server: Server, agent: Program, held_walk: Path
) -> None:
    server.run("publish", str(held_walk))
    agent.run("attach", server.url)
    server.run("deploy", "short_walk", "--count", "2")
    first = agent.start("run", "--no-display")
    wait_for("a task to run", lambda: running(agent))
    family = programs.descendants(first)
    assert family

    agent.kill()
    alive = still_running(family, KILL_SECONDS_MAX)
    assert not alive, f"outlived the agent: {alive}"

    agent.run("run", "--until-idle", "--no-display")
    review = server.json("review")
    assert review["results"] == 2
    assert review["credit"] == 4
    assert server.json("review")["results"] == 0


def running(agent: Program) -> list[object]:
    tasks = agent.json("tasks")["tasks"]
    return [task for task in tasks if task["state"] == "running"]


def test_a_killed_server_loses_no_work_of_the_agent(
    server: Server, agent: Program, held_walk: Path
) -> None:
    server.run("publish", str(held_walk))
    agent.run("attach", server.url)
    server.run("deploy", "short_walk", "--count", "4")
    agent.start("run", "--no-display")
    wait_for("a task to run", lambda: running(agent))

    server.kill()
    wait_for("reports to be kept", lambda: agent.json("status")["reports_unsent"] >= 2)
    time.sleep(1)  # long enough for a report to be lost, were it tried only once
    server.serve()
    agent.run("sync")
    wait_for("the reports to arrive", lambda: pending(server) >= 2)
    wait_for("the rest", lambda: pending(server) == 4)
    review = server.json("review")
    assert (review["results"], review["credit"]) == (4, 8)
