"""Use recorded data of 0.1.0 with the current programs; see tests/fixtures/v0_1_0/README.md."""

from __future__ import annotations

import contextlib
import gzip
import json
import sqlite3
import tarfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import httpx
import msgspec
import psycopg

from axiom_server.project_folder import ProjectFolder
from tests.fixtures.v0_1_0.messages import EnrolAnswer, SyncAnswer
from tests.support.programs import FIXTURES, Program, Server

RECORDED = FIXTURES / "v0_1_0"
T = TypeVar("T")


def recorded(name: str) -> Any:
    """One of the JSON files."""
    return json.loads((RECORDED / name).read_text(encoding="utf-8"))


def restored(folder: Path) -> Server:
    """The project, restored by the current ``axiom-server restore``; not served yet.

    Its signatures are renewed, as staff do twice a year, because those of the fixture expire.
    """
    made = Server(name="axiom-server", folder=folder / "project", variable="AXIOM_SERVER_DIR")
    made.run("restore", str(RECORDED / "project.tar.gz"), str(made.folder))
    made.run("keys", "rotate", "root")
    made.run("keys", "renew")
    return made


def values(server: Server, query: str) -> list[tuple[Any, ...]]:
    """The rows of a query to the project's database."""
    with (
        ProjectFolder(server.folder).database() as conninfo,
        psycopg.connect(conninfo) as connection,
    ):
        return connection.execute(query).fetchall()  # type: ignore[call-overload, no-any-return]


def agent_of(name: str, folder: Path, url: str = "") -> Program:
    """The agent of ``ada`` or ``ben`` as it was when killed, in a new folder.

    url     where its project is served now
    """
    with tarfile.open(RECORDED / "agents.tar.gz") as archive:
        members = [m for m in archive if m.name.split("/")[0] == name]
        archive.extractall(folder, members, filter="fully_trusted")
    identity = folder / name / "state" / "identity.json"
    known = json.loads(identity.read_bytes())
    identity.write_text(json.dumps({**known, "url": url or known["url"]}))
    _renew_leases(folder / name / "state" / "journal.sqlite")
    return Program(name="axiom-client", folder=folder / name, variable="AXIOM_CLIENT_DIR")


def _renew_leases(journal: Path) -> None:
    """Let the leases end six hours from now: those recorded ended on the day of the recording."""
    with contextlib.closing(sqlite3.connect(journal)) as connection:
        connection.execute(
            "UPDATE tasks SET record = CAST(json_set(CAST(record AS TEXT), '$.lease_until_wall', ?)"
            " AS BLOB)", (time.time() + 21_600,)
        )  # fmt: skip
        connection.commit()


class OldHost:
    """An agent of 0.1.0 from the server's view: sends its recorded requests again."""

    def __init__(self, url: str, user: str) -> None:
        self.user = user
        self.exchanges = _of_user(user)
        self.token = ""
        self.asked = 0
        self._http = httpx.Client(base_url=url, timeout=60)

    def __enter__(self) -> OldHost:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def attach(self) -> EnrolAnswer:
        """As recorded, from the first look at the project to the host's token."""
        for line in self.exchanges:
            answer = self.send(line)
            assert answer.status_code == line["status"], answer.text
            if line["path"] == "/api/v1/hosts":
                made = msgspec.json.decode(answer.content, type=EnrolAnswer)
                self.token = made.token
                return made
        raise AssertionError("the recording holds no such request")

    def syncs(self) -> list[dict[str, Any]]:
        """The recorded syncs."""
        return [line for line in self.exchanges if line["path"] == "/api/v1/sync"]

    def sync(self, line: Mapping[str, Any], **changed: Any) -> SyncAnswer:
        """A recorded sync, with some of its fields changed; the answer as 0.1.0 reads it."""
        body = json.loads(line["body"]) | changed
        answer = self.send({**line, "body": json.dumps(body) if changed else line["body"]})
        assert answer.status_code == 200, answer.text
        return msgspec.json.decode(answer.content, type=SyncAnswer)

    def work(self) -> int:
        """Ask for tasks as recorded, and report their recorded results; how many there were."""
        line, reports = self.syncs()[0], reports_by_seed()
        self.asked += 1
        answer = self.sync(line, request_id=f"asked-{self.asked:06d}")
        made = [{**reports[g.seed], "task_id": g.task_id} for g in answer.grants]
        if made:
            told = self.sync(line, request_id=f"told-{self.asked:06d}", reports=made)
            assert [line.refusal for line in told.acknowledged] == [""] * len(made)
        return len(made)

    def send(self, line: Mapping[str, Any]) -> httpx.Response:
        """One recorded request, packed as it was."""
        body = line["body"].encode()
        packed = line["headers"].get("content-encoding") == "gzip"
        headers = dict(line["headers"])
        if self.token and line["path"].startswith("/api/"):
            headers["authorization"] = f"Bearer {self.token}"
        return self._http.request(
            line["method"], line["path"], headers=headers,
            content=gzip.compress(body) if packed else body,
        )  # fmt: skip


def _of_user(user: str) -> list[dict[str, Any]]:
    """From the user's attaching on until the first sync with reports, as recorded."""
    wire = recorded("wire.json")
    joins = next(n for n, line in enumerate(wire) if f'"user":"{user}"' in line["body"])
    start = next(n for n in range(joins, -1, -1) if wire[n]["path"] == "/api/v1/project")
    ends = next(n for n in range(joins, len(wire)) if '"reports":[{' in wire[n]["body"])
    return list(wire[start : ends + 1])


def reports_by_seed() -> dict[int, dict[str, Any]]:
    """The reports in the recording, by the seed that each was of."""
    seeds: dict[int, int] = {}
    found = {}
    for line in recorded("wire.json"):
        if line["path"] == "/api/v1/sync":
            for grant in json.loads(line["answer"])["grants"]:
                seeds[grant["task_id"]] = grant["seed"]
            for report in json.loads(line["body"])["reports"]:
                found[seeds[report["task_id"]]] = report
    return found
