"""Forged requests to the real server gain nothing, and scripts in names are shown as text."""

from __future__ import annotations

import itertools
import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from axiom_protocol.messages import REPORTS_MAX
from tests.support import programs
from tests.support.programs import Server
from tests.trust.hostile import script

FACTS: dict[str, Any] = {
    "os": "linux",
    "architecture": "x86_64",
    "cpu_cores": 16,
    "memory_bytes": 1 << 34,
    "disk_free_bytes": 1 << 36,
    "environments": ["numpy"],
}
RESULT = {"valid": 1, "configs_done": 3, "exponent": 0.5}
YEAR_SECONDS = 366 * 86400.0
NAMES = [
    "<script>alert(1)</script>",
    "\"><img src=x onerror='alert(1)'>",
    "{{ 7 * 191 }}{% raw %}",
    "[prize](javascript:alert(1))|`x`",
    "\x1b]0;owned\x07\x1b[2J\x9b31mred",
    "Ada\u202e\u200b\nHost 1: quarantined",
    "'; DROP TABLE users; --",
]
FORGED: list[Any] = [
    None,
    {},
    {**RESULT, "exponent": 1e9},
    {**RESULT, "exponent": "0.5"},
    {**RESULT, "exponent": True},
    {**RESULT, "exponent": [0.5]},
    {**RESULT, "configs_done": 0},
    {**RESULT, "configs_done": 2.5},
    {**RESULT, "valid": 2},
    {**RESULT, "credit": 10**6},
    [RESULT],
]
UNSEEN = "\x00\x07\x1b\x9b\u202e\u200b"  # moves a cursor, turns a line round, or hides


@dataclass
class Forger:
    """A host that sends forged requests."""

    client: httpx.Client
    token: str
    host_id: int
    numbers: Iterator[int]

    def sync(self, *reports: dict[str, Any], slots: int = 0) -> dict[str, Any]:
        request = {
            "request_id": f"forged-{next(self.numbers):06d}",
            "capacity": {"cpu_slots": 16, "cpu_slots_free": slots, "memory_free_bytes": 1 << 34,
                         "disk_free_bytes": 1 << 36},
            "in_hand": [],
            "reports": list(reports),
        }  # fmt: skip
        headers = {"Authorization": f"Bearer {self.token}"}
        answer = self.client.post("/api/v1/sync", json=request, headers=headers)
        answer.raise_for_status()
        said: dict[str, Any] = answer.json()
        return said

    def fetch(self, slots: int = 1) -> list[dict[str, Any]]:
        """Fresh tasks. A server that found none looks again after EMPTY_POOL_SECONDS."""
        deadline = time.monotonic() + 30
        grants: list[dict[str, Any]] = []
        while not grants and time.monotonic() < deadline:
            if not (grants := self.sync(slots=slots)["grants"]):
                time.sleep(0.1)
        assert len(grants) == slots
        return grants


def report(grant: dict[str, Any], **claims: Any) -> dict[str, Any]:
    """What an honest host would say, changed here and there."""
    result = {**RESULT, "exponent": 0.5 + grant["seed"] * 1e-4}
    told = {"outcome": "success", "elapsed_seconds": 0.01, "cpu_seconds": 0.01, "result": result}
    return {"task_id": grant["task_id"], **told, **claims}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A project with two experiments of the same text."""
    made = programs.server(tmp_path_factory.mktemp("forgery"))
    made.serve()
    for name in ("short_walk", "forged_walk"):
        path = tmp_path_factory.mktemp("source") / f"{name}.py"
        path.write_bytes(script(name=name))
        made.run("publish", str(path), "--skip", "dry-run")
    yield made
    assert made.stop() == 0
    assert "Traceback" not in (made.folder.parent / "axiom-server.log").read_text()


@pytest.fixture
def client(project: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=project.url, trust_env=False, timeout=60) as made:
        yield made


@pytest.fixture
def numbers() -> Iterator[int]:
    return itertools.count(time.monotonic_ns() % 10**6)


@pytest.fixture(scope="module")
def account_key(project: Server) -> str:
    """Of the one user that the hosts of these tests belong to."""
    key: str = project.json("users", "add", "Mallory")["account_key"]
    return key


@pytest.fixture
def join(client: httpx.Client, numbers: Iterator[int], account_key: str) -> Callable[..., Forger]:
    """Makes a host."""

    def make(name: str = "h") -> Forger:
        asked = {"account_key": account_key, "host": {"name": name, **FACTS}}
        answer = client.post("/api/v1/hosts", json=asked)
        answer.raise_for_status()
        return Forger(client, answer.json()["token"], answer.json()["host_id"], numbers)

    return make


def earned(project: Server, *hosts: Forger) -> list[float]:
    """The credit of each of these hosts by a review.

    They belong to one user, so their results are not compared.
    """
    project.run("review")
    credit = {line["host_id"]: line["credit_total"] for line in project.json("hosts")}
    return [credit[host.host_id] for host in hosts]


def test_elapsed_seconds_that_were_not_spent_earn_nothing(
    project: Server, join: Callable[..., Forger]
) -> None:
    project.run("deploy", "short_walk", "--count", "2")
    honest, forger = join(), join()
    honest.sync(*map(report, honest.fetch()))
    (grant,) = forger.fetch()
    forger.sync(report(grant, elapsed_seconds=YEAR_SECONDS, cpu_seconds=YEAR_SECONDS))
    right, wrong = earned(project, honest, forger)
    assert wrong <= right
    assert right > 0


def test_a_task_of_another_hosts_earns_nothing_and_stays_with_it(
    project: Server, join: Callable[..., Forger]
) -> None:
    project.run("deploy", "short_walk", "--count", "1")
    owner, thief = join(), join()
    (grant,) = owner.fetch()
    near = range(max(1, grant["task_id"] - 3), grant["task_id"] + 4)
    told = thief.sync(*(report({**grant, "task_id": task_id}) for task_id in near))
    assert all("never granted" in ack["refusal"] for ack in told["acknowledged"])
    (acknowledged,) = owner.sync(report(grant))["acknowledged"]
    assert acknowledged["refusal"] == ""
    right, wrong = earned(project, owner, thief)
    assert right > wrong == 0


def test_results_that_are_not_what_was_declared_earn_nothing(
    project: Server, join: Callable[..., Forger]
) -> None:
    project.run("deploy", "forged_walk", "--count", str(len(FORGED)))
    forger = join()
    grants = forger.fetch(len(FORGED))
    told = forger.sync(*(report(g, result=r) for g, r in zip(grants, FORGED, strict=True)))
    assert [ack for ack in told["acknowledged"] if not ack["refusal"]] == []
    project.run("experiments", "retire", "forged_walk")
    assert earned(project, forger) == [0]


@pytest.mark.parametrize(
    "count", [20_000, pytest.param(1_000_000, marks=pytest.mark.slow)], ids=lambda n: f"{n:,}"
)
def test_the_same_report_sent_again_and_again_earns_once(
    project: Server, join: Callable[..., Forger], count: int
) -> None:
    """With as many reports in a request, and as many requests, as the server accepts."""
    project.run("deploy", "short_walk", "--count", "2")
    once, stubborn = join(), join()
    once.sync(*map(report, once.fetch()))
    copies = [report(*stubborn.fetch())] * REPORTS_MAX
    sent = 0
    while sent < count:
        try:
            told = stubborn.sync(*copies)
        except httpx.HTTPStatusError as error:
            if error.response.status_code != httpx.codes.TOO_MANY_REQUESTS:
                raise
            time.sleep(float(error.response.headers["retry-after"]))
            continue
        assert {ack["refusal"] for ack in told["acknowledged"]} == {""}
        sent += len(copies)
    right, wrong = earned(project, once, stubborn)
    assert right == wrong > 0


def test_names_with_script_in_them_are_text_everywhere(
    project: Server, client: httpx.Client, join: Callable[..., Forger], tmp_path: Path
) -> None:
    """Users' from another project, whose results earn credit here; hosts' and messages' of ours."""
    results = [
        {"result_id": n, "user": name, "host_id": 900 + n, "experiment": "short_walk",
         "elapsed_seconds": 10.0} for n, name in enumerate(NAMES, 1)
    ]  # fmt: skip
    (tmp_path / "old.json").write_text(json.dumps({"results": results}))
    project.run("import", str(tmp_path / "old.json"))
    project.run("deploy", "short_walk", "--count", str(len(NAMES)))
    hosts = [join(name) for name in NAMES]
    for name, host in zip(NAMES, hosts, strict=True):
        host.sync(report(*host.fetch(), message=name))
    for host in hosts:
        assert host.sync(slots=2)["grants"] == []  # idle, for what --fill-idle makes
    session = project.json("review")["session"]
    project.run("deploy", "short_walk", "--fill-idle")
    for path in ("/", "/leaders", f"/sessions/{session}", "/metrics"):
        page = client.get(path)
        assert page.status_code == 200
        for tag in ("<script>", "<img src=x", "1337"):  # 1337: 7 * 191, were a template filled in
            assert tag not in page.text
        if "html" in page.headers["content-type"]:
            assert page.headers["content-security-policy"].startswith("default-src 'none'")
            assert ("&lt;script&gt;" in page.text) == (path != "/"), "where names are shown"
    markdown = project.run("log", "--markdown")
    assert "alert(1)" not in markdown  # its brackets are escaped
    assert not re.search(r"(?<!\\)[<\[]\w", markdown)
    told = [markdown, project.run("hosts"), project.run("users", "list"), project.run("log")]
    assert not [text for text in told if any(letter in text for letter in UNSEEN)]
    assert not [text for text in told if "\nHost 1: quarantined" in text]
