"""Two ``serve`` processes on one PostgreSQL of the operator's, killed at random."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from tests.support.cluster import cluster
from tests.support.processes import WAIT_SECONDS, wait_for
from tests.support.programs import FIXTURES, Server, free_port, server

WORKUNITS = 600
HOSTS = 4
CORES = 8
KILLS = 2
SEED = 2026  # of who is killed when; any will do


@dataclass
class Pair:
    """One project, two servers."""

    staff: Server
    both: list[Server]
    conninfo: str
    kills: Counter[int] = field(default_factory=Counter)

    def value(self, query: str) -> Any:
        with psycopg.connect(self.conninfo) as connection:
            row = connection.execute(query).fetchone()  # type: ignore[call-overload]
            assert row is not None
            return row[0]


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pair]:
    with cluster(tmp_path) as conninfo:
        with psycopg.connect(conninfo, autocommit=True) as connection:
            connection.execute("CREATE DATABASE project")
        conninfo = make_conninfo(conninfo, dbname="project")
        monkeypatch.setenv("AXIOM_DATABASE_URL", conninfo)
        staff = server(tmp_path)
        both = [
            Server(name="axiom-server", folder=staff.folder, variable=staff.variable)
            for _ in range(2)
        ]
        for one in both:
            one.serve()
        try:
            yield Pair(staff, both, conninfo)
        finally:
            for one in both:
                one.stop()


@dataclass
class Volunteer:
    """A host that syncs with a random server, and repeats requests that get no answer."""

    pair: Pair
    number: int
    token: str
    rng: random.Random
    held: dict[int, dict[str, Any]] = field(default_factory=dict)
    acknowledged: set[int] = field(default_factory=set)
    refused: list[str] = field(default_factory=list)
    unanswered: int = 0
    requests: int = 0

    def work(self, until: float) -> None:
        """Report tasks and request more, until no work is left."""
        idle_syncs = 0
        while idle_syncs < 3 and time.monotonic() < until:
            answer = self._sync()
            for line in answer["acknowledged"]:
                self.acknowledged.add(line["task_id"])
                self.held.pop(line["task_id"], None)
                self.refused += [line["refusal"]] if line["refusal"] else []
            for task_id in answer["cancelled"]:
                self.held.pop(task_id, None)
            self.held |= {grant["task_id"]: grant for grant in answer["grants"]}
            # A server remembers for a second that the queue was empty.
            idle_syncs = 0 if self.held else idle_syncs + 1
            time.sleep(1.1 if idle_syncs else 0.05)

    def _sync(self) -> dict[str, Any]:
        self.requests += 1
        reports = [
            {"task_id": task_id, "outcome": "success", "elapsed_seconds": 0.04, "cpu_seconds": 0.04,
             "result": {"valid": 1, "configs_done": 3, "exponent": 0.4 + grant["seed"] * 1e-5}}
            for task_id, grant in self.held.items()
        ]  # fmt: skip
        body = {
            "request_id": f"host{self.number}-{self.requests:06d}",
            "capacity": {"cpu_slots": CORES, "cpu_slots_free": CORES},
            "reports": reports,
        }
        while True:
            one = self.rng.choice(self.pair.both)
            try:
                answer = httpx.post(
                    f"{one.url}/api/v1/sync", json=body, timeout=WAIT_SECONDS,
                    headers={"authorization": f"Bearer {self.token}"},
                )  # fmt: skip
            except httpx.TransportError:
                self.unanswered += 1
                time.sleep(0.02)
                continue
            found: dict[str, Any] = answer.raise_for_status().json()
            return found


def test_one_of_two_servers_is_killed_and_nothing_is_lost_or_counted_twice(pair: Pair) -> None:
    rng = random.Random(SEED)
    pair.staff.run("publish", "--skip", "dry-run", str(FIXTURES / "experiments" / "short_walk.py"))
    key = pair.staff.json("users", "add", "ann")["account_key"]
    fleet = [
        Volunteer(pair, n, enrol(pair.both[n % 2], n, key), random.Random(rng.random()))
        for n in range(HOSTS)
    ]
    pair.staff.run("deploy", "short_walk", "--count", str(WORKUNITS))
    until = time.monotonic() + 2 * WAIT_SECONDS
    threads = [threading.Thread(target=host.work, args=(until,)) for host in fleet]
    for thread in threads:
        thread.start()
    for kill in range(1, KILLS + 1):
        done = WORKUNITS * kill // (KILLS + 2)
        wait_for("some work to be done", lambda done=done: reported(fleet) >= done)  # type: ignore[misc]
        victim, met = rng.choice(pair.both), unanswered(fleet)
        victim.kill()
        wait_for("somebody to meet a dead server", lambda met=met: unanswered(fleet) > met)  # type: ignore[misc]
        victim.port = free_port()  # the old one may still be in TIME_WAIT
        victim.serve()
    for thread in threads:
        thread.join()

    assert [host.refused for host in fleet] == [[]] * HOSTS
    assert [host.held for host in fleet] == [{}] * HOSTS
    assert pair.value("SELECT count(*) FROM queue") == 0
    assert pair.value("SELECT count(*) FROM tasks WHERE state = 'leased'") == 0
    assert pair.value("SELECT count(*) FROM results") == WORKUNITS
    assert pair.value("SELECT count(DISTINCT workunit_id) FROM results") == WORKUNITS
    acknowledged = set[int]().union(*(host.acknowledged for host in fleet))
    assert len(acknowledged) == WORKUNITS, "what is acknowledged is there"
    review = pair.staff.json("review")
    assert (review["results"], review["credit"]) == (WORKUNITS, 2 * WORKUNITS)
    assert pair.staff.json("review")["results"] == 0


def enrol(at: Server, number: int, key: str) -> str:
    """A host of the account's; its token."""
    facts = {
        "name": f"host{number}", "os": "linux", "architecture": "x86_64", "cpu_cores": CORES,
        "memory_bytes": 1 << 36, "disk_free_bytes": 1 << 36, "environments": ["numpy"],
    }  # fmt: skip
    answer = httpx.post(f"{at.url}/api/v1/hosts", json={"host": facts, "account_key": key})
    return str(answer.raise_for_status().json()["token"])


def reported(fleet: list[Volunteer]) -> int:
    """Reports acknowledged so far."""
    return sum(len(host.acknowledged) for host in fleet)


def unanswered(fleet: list[Volunteer]) -> int:
    """Requests so far that met a dead server."""
    return sum(host.unanswered for host in fleet)
