"""An agent that updates itself, works on as the new version, and comes back from a broken one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.processes import wait_for
from tests.support.programs import FIXTURES, Program, Server
from tests.support.release_archive import build_wheel

WALK = FIXTURES / "experiments" / "short_walk.py"
#: Never answers the launcher: the network works, and no request is sent.
HANGS = {
    "axiom_client/project/api.py": (
        "    async def sync(",
        "    async def sync(self, request: SyncRequest) -> SyncAnswer:\n"
        "        await asyncio.sleep(3600)\n        raise AssertionError\n\n"
        "    async def sync_before(",
    )
}


def record(agent: Program) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((agent.folder / "state/releases/record.json").read_bytes())
    return found


def reported(agent: Program) -> int:
    """How many results the server has, as the agent was told."""
    done = agent.finish("status", "--json")
    return int(json.loads(done.stdout)["credit"]["pending_results"]) if not done.returncode else 0


def updating(agent: Program, url: str) -> None:
    agent.run("attach", url)
    agent.run("config", "set", "update.enabled", "true")
    agent.run("config", "set", "update.every", "2 s")
    agent.run("config", "set", "update.trial", "20 s")
    agent.start("run", "--no-display")


def becomes(agent: Program, version: str) -> Callable[[], bool]:
    def is_it() -> bool:
        done = agent.finish("status", "--json")
        return (
            done.returncode == 0
            and json.loads(done.stdout)["version"] == version
            and json.loads(done.stdout)["state"] == "running"
        )

    return is_it


def test_updates_between_tasks_and_undoes_a_version_that_never_works(
    server: Server, agent: Program, tmp_path: Path
) -> None:
    server.run("release", "trust", "--no-passphrase")
    server.run("publish", str(WALK), "--skip", "dry-run")
    server.run("deploy", "short_walk", "--count", "2")
    updating(agent, server.url)
    wait_for("the first results", lambda: reported(agent) == 2)

    server.run("release", "publish", str(build_wheel(tmp_path, "0.9.1")))
    wait_for("the release", becomes(agent, "0.9.1"))
    assert record(agent)["current"] == "0.9.1"

    server.run("release", "publish", str(build_wheel(tmp_path, "0.9.2", HANGS)))
    wait_for("the broken release to be undone", lambda: bool(record(agent).get("undone")))
    wait_for("the release before", becomes(agent, "0.9.1"))
    assert record(agent)["undone"]["version"] == "0.9.2"
