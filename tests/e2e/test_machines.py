"""Forty hosts of one volunteer, controlled from one page with a browser's forms."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support import programs
from tests.support.processes import WAIT_SECONDS, wait_for
from tests.support.programs import Program, Server

FACTS = {
    "name": "wire", "os": "linux", "architecture": "x86_64", "cpu_cores": 8,
    "memory_bytes": 1 << 34, "disk_free_bytes": 1 << 34,
}  # fmt: skip
KEPT_FREE = "kept free: cpu.share is 50%, set by your account on "


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Server]:
    made = programs.server(tmp_path)
    config = made.folder / "project.toml"
    brisk = "[serve]\nsync_seconds = 1\nidle_sync_seconds = 1\n"
    config.write_text(config.read_text().replace("[serve]\n", brisk))
    made.serve()
    yield made
    made.stop()


@pytest.fixture
def agents(tmp_path: Path, project: Server) -> Iterator[list[Program]]:
    """Two real agents of one account, running."""
    made = [programs.agent(tmp_path / name, "a") for name in ("1", "2")]
    made[0].run("attach", project.url, "--user", "Ada", "--name", "one")
    key = _identity(made[0])["account_key"]
    made[1].run("attach", project.url, "--account-key", key, "--name", "two")
    for each in made:
        each.start("run")
    yield made
    for each in made:
        each.stop()


def _identity(agent: Program) -> Any:
    [path] = agent.folder.rglob("identity.json")
    return json.loads(path.read_text())


def _send(client: httpx.Client, **fields: Any) -> None:
    page = client.get("/account/machines").raise_for_status().text
    found = re.search(r'name="form_token" value="([0-9a-f]+)"', page)
    assert found is not None
    sent = client.post("/account/machines", data={"form_token": found[1], **fields})
    assert sent.status_code == 303, sent.text


def _reasons(agent: Program) -> list[str]:
    return [slot["reason"] for slot in agent.json("status")["slots"]]


def _halved(agent: Program) -> bool:
    reasons = _reasons(agent)
    kept = [reason for reason in reasons if reason.startswith(KEPT_FREE)]
    return bool(reasons) and len(kept) == len(reasons) - max(1, len(reasons) // 2)


def test_forty_hosts_are_halved_from_one_page_and_one_whose_config_refuses_is_not(
    project: Server, agents: list[Program]
) -> None:
    key = _identity(agents[0])["account_key"]
    for number in range(38):
        joined = {"host": {**FACTS, "name": f"wire{number}"}, "account_key": key}
        httpx.post(
            f"{project.url}/api/v1/hosts", json=joined, timeout=WAIT_SECONDS
        ).raise_for_status()
    for each in agents:
        wait_for("an agent to run", lambda each=each: each.json("status")["contact_seconds_ago"])
    link = agents[0].json("account", "open", "--no-browser")
    with httpx.Client(base_url=project.url, timeout=WAIT_SECONDS) as client:
        assert client.post(link["url"]).status_code == 303
        page = client.get("/account/machines").text
        assert page.count('name="host"') == 40
        _send(client, what="limit all", share="50")
        for each in agents:
            wait_for("the agent to obey", lambda each=each: _halved(each))
            assert "set by your account on" in each.run("config", "show")
        wait_for("the page to show it", lambda: KEPT_FREE in client.get("/account/machines").text)
        agents[1].run("config", "set", "account.control", "false")
        wait_for("the host to refuse", lambda: not _halved(agents[1]))
        _send(client, what="limit all", share="25")
        wait_for(
            "the page to say so",
            lambda: "ignored by its configuration" in client.get("/account/machines").text,
        )
        assert _reasons(agents[1])[-1].startswith("free: ")
        assert client.post(link["url"]).status_code == 403, "a link works once"
