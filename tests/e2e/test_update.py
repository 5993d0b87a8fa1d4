"""An agent that updates itself, works on as the new version, and comes back from a broken one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.support.processes import wait_for
from tests.support.programs import Program, Server
from tests.support.release_archive import build_wheel

SECONDS = 400.0  # a release is imported at a low priority, beside other tests
#: It starts, takes up the journal, and ends with a traceback at its first request.
BROKEN = {
    "axiom_client/project/api.py": (
        "    async def sync(",
        "    async def sync(self, request: SyncRequest) -> SyncAnswer:\n"
        "        raise RuntimeError('broken')\n\n"
        "    async def sync_before(",
    )
}


def record(agent: Program) -> dict[str, Any]:
    path = agent.folder / "state" / "releases" / "record.json"
    found: dict[str, Any] = json.loads(path.read_bytes()) if path.exists() else {}
    return found


def status(agent: Program) -> dict[str, Any]:
    """What the running agent says; empty while none runs."""
    done = agent.finish("status", "--json")
    found: dict[str, Any] = json.loads(done.stdout) if done.returncode == 0 else {}
    return found if found.get("state") != "not running" else {}


def all_done(agent: Program, tasks: int) -> bool:
    """Whether the agent has run so many tasks to their end, and the server has every report."""
    log = (agent.folder / "state" / "agent.log").read_text()
    return log.count(" is done after ") >= tasks and status(agent).get("reports_unsent") == 0


def start_updating(agent: Program, url: str) -> None:
    agent.run("attach", url)
    for setting in ("update.enabled true", "update.every 2s"):
        agent.run("config", "set", *setting.split())
    agent.start("run", "--no-display")


def test_updates_between_tasks_and_undoes_a_broken_version(
    server: Server, agent: Program, tmp_path: Path, held_walk: Path
) -> None:
    """Tasks run and wait at both changes of the version, and every result arrives, once."""
    server.run("release", "trust", "--no-passphrase")
    server.run("publish", str(held_walk), "--skip", "dry-run")
    server.run("deploy", "short_walk", "--count", "5")
    start_updating(agent, server.url)
    wait_for("a task to run", lambda: status(agent).get("tasks_running"))

    server.run("release", "publish", str(build_wheel(tmp_path, "0.9.1")))
    wait_for("the release", lambda: record(agent).get("current") == "0.9.1", SECONDS)
    assert status(agent)["version"] == "0.9.1"
    server.run("deploy", "short_walk", "--count", "3")
    wait_for("a task to run", lambda: status(agent).get("tasks_running"))

    server.run("release", "publish", str(build_wheel(tmp_path, "0.9.2", BROKEN)))
    undone = wait_for("the broken one to be undone", lambda: record(agent).get("undone"), SECONDS)
    assert (undone["version"], undone["back_to"]) == ("0.9.2", "0.9.1")
    assert undone["why"] == "it ended with exit code 1 before it was healthy"
    wait_for("all results", lambda: all_done(agent, 8), SECONDS)
    shown = status(agent)
    assert shown["version"] == "0.9.1"
    assert any("0.9.2 was undone, back to 0.9.1" in line for line in shown["updates"])
    wait_for(
        "the next look for releases",
        lambda: "tried again after a day" in " ".join(status(agent).get("updates", [])),
        SECONDS,
    )
    assert server.json("review")["results"] == 8
    assert agent.stop() == 0
