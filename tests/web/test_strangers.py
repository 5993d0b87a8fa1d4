"""Limits of a real server on what one client without a record can create, see or break."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import psycopg
import pytest

from axiom_protocol.messages import PROTOCOL_VERSION
from axiom_server.project_folder import ProjectFolder
from axiom_server.store.database import connect
from axiom_server.store.machines import GROUPS_MAX
from axiom_server.store.web_sessions import SESSIONS_MAX
from axiom_server.web.metrics import Metrics
from tests.support.programs import Server, server

NEWCOMER_HOSTS = 3
FACTS = {"name": "h", "os": "linux", "architecture": "x86_64", "cpu_cores": 1,
         "memory_bytes": 1 << 32, "disk_free_bytes": 1 << 32}  # fmt: skip


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = server(tmp_path_factory.mktemp("strangers"))
    (made.folder / "project.toml").write_text(
        f"[standing]\nnewcomer_hosts = {NEWCOMER_HOSTS}\n[limits]\naddress_burst = 600\n"
        "address_per_second = 50\n"
    )
    made.serve()
    try:
        yield made
    finally:
        assert made.stop() == 0


def join(project: Server, **fields: Any) -> httpx.Response:
    return httpx.post(f"{project.url}/api/v1/hosts", json={"host": FACTS, **fields})


@contextmanager
def signed_in(project: Server, key: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=project.url, timeout=30) as client:
        assert client.post("/account/sign-in", data={"key": key}).status_code == 303
        yield client


def act(client: httpx.Client, action: str, **fields: str) -> int:
    found = re.search(r'name="form_token" value="([0-9a-f]+)"', client.get("/account").text)
    assert found is not None
    return client.post(f"/account/{action}", data={"form_token": found[1], **fields}).status_code


def count(project: Server, query: str) -> Any:
    with psycopg.connect(ProjectFolder(project.folder).embedded().conninfo) as connection:
        row = connection.execute(query).fetchone()
        assert row is not None
        return row[0]


@pytest.mark.parametrize("path", ["/leaders/%00", "/experiments/%00", "/experiments/a/%00/b.csv"])
def test_a_zero_byte_in_a_path_is_not_found(project: Server, path: str) -> None:
    assert httpx.get(project.url + path).status_code == 404


def test_a_malformed_origin_is_refused(project: Server) -> None:
    answer = httpx.post(f"{project.url}/account/sign-in", data={"key": "x"},
                        headers={"Origin": "http://["})  # fmt: skip
    assert answer.status_code == 403


def test_names_of_deleted_and_hidden_accounts_are_reserved(project: Server) -> None:
    key = join(project, user="leaver").json()["account_key"]
    number = count(project, "SELECT user_id FROM users WHERE name = 'leaver'")
    for name in (f"deleted-{number}", f"Deleted-{number}", "(hidden)", "dele\u200dted-7"):
        assert join(project, user=name).status_code == 400
    with psycopg.connect(ProjectFolder(project.folder).embedded().conninfo) as connection:
        connection.execute("INSERT INTO users (name) VALUES (%s)", (f"deleted-{number}",))
    with signed_in(project, key) as client:
        assert act(client, "delete", sure="delete") == 303
    assert count(project, "SELECT count(*) FROM users WHERE name = 'leaver'") == 0


def test_similar_team_names_are_refused(project: Server) -> None:
    with signed_in(project, join(project).json()["account_key"]) as client:
        assert act(client, "team-found", name="Illini Lab") == 303
        for name in ("illini lab", "Illini\u200c Lab", "lllini Lab", "1llini Lab", "ILLINI LAB"):
            assert act(client, "team-found", name=name) == 409, name
        assert act(client, "team-found", name="Other Lab") == 303
        assert act(client, "team-name", name="other \u200dlab") == 303, (
            "its own may change its case"
        )


def test_an_account_founds_few_teams_and_empty_teams_are_deleted(project: Server) -> None:
    with signed_in(project, join(project).json()["account_key"]) as client:
        before = count(project, "SELECT count(*) FROM teams")
        for number in range(12):
            act(client, "team-found", name=f"many {number}")
    assert count(project, "SELECT count(*) FROM teams") - before <= 2


def test_groups_and_sessions_of_an_account_are_bounded(project: Server) -> None:
    key = join(project).json()["account_key"]
    owner = count(project, "SELECT max(user_id) FROM users")
    with signed_in(project, key) as client:
        found = re.search(r'name="form_token" value="([0-9a-f]+)"', client.get("/account").text)
        assert found is not None
        for number in range(GROUPS_MAX + 5):
            fields = {"form_token": found[1], "what": "limit group", "group": f"g{number}"}
            status = client.post("/account/machines", data=fields).status_code
        assert status == 409
        for _ in range(SESSIONS_MAX + 5):
            httpx.post(f"{project.url}/account/sign-in", data={"key": key})
        assert client.get("/account").status_code == 401, "the oldest has ended"
    for table in ("host_groups", "web_sessions"):
        most = max(GROUPS_MAX, SESSIONS_MAX)
        assert count(project, f"SELECT count(*) FROM {table} WHERE user_id = {owner}") <= most


def test_a_new_key_ends_sessions_of_the_old_one(project: Server) -> None:
    key = join(project).json()["account_key"]
    with signed_in(project, key) as thief, signed_in(project, key) as owner:
        assert act(owner, "key") == 200
        assert thief.get("/account").status_code == 401
        assert owner.get("/account").status_code == 200


def test_the_hosts_of_a_new_account_are_limited(project: Server) -> None:
    key = join(project).json()["account_key"]
    joined = [join(project, account_key=key).status_code for _ in range(NEWCOMER_HOSTS + 1)]
    assert joined == [201] * (NEWCOMER_HOSTS - 1) + [403] * 2


def test_hosts_that_left_count_towards_the_limit(project: Server) -> None:
    key = join(project).json()["account_key"]
    statuses = []
    for _ in range(NEWCOMER_HOSTS + 2):
        joined = join(project, account_key=key)
        statuses.append(joined.status_code)
        if joined.is_success:
            token = {"Authorization": f"Bearer {joined.json()['token']}"}
            assert httpx.delete(f"{project.url}/api/v1/hosts/self", headers=token).is_success
    assert statuses.count(201) == NEWCOMER_HOSTS - 1


def test_charts_of_hidden_users_are_not_found(project: Server) -> None:
    made = join(project, user="hider").json()
    user = count(project, "SELECT user_id FROM users WHERE name = 'hider'")
    paths = [f"/charts/users/{user}.light.svg", f"/charts/hosts/{made['host_id']}.dark.svg"]
    assert [httpx.get(project.url + path).status_code for path in paths] == [200, 200]
    with signed_in(project, made["account_key"]) as client:
        assert act(client, "shown", shown="no") == 303
    assert [httpx.get(project.url + path).status_code for path in paths] == [404, 404]


def test_slow_pages_do_not_delay_a_sync(project: Server) -> None:
    token = join(project).json()["token"]
    request = {"request_id": "strangers-1", "protocol_version": PROTOCOL_VERSION, "capacity": {}}
    with psycopg.connect(ProjectFolder(project.folder).embedded().conninfo) as connection:
        connection.execute("LOCK TABLE teams IN ACCESS EXCLUSIVE MODE")
        readers = [threading.Thread(target=_read_teams, args=(project,)) for _ in range(20)]
        for reader in readers:
            reader.start()
        answer = httpx.post(f"{project.url}/api/v1/sync", json=request, timeout=15,
                            headers={"Authorization": f"Bearer {token}"})  # fmt: skip
        assert answer.status_code == 200
        connection.rollback()
    for reader in readers:
        reader.join(30)


def test_totals_are_cached(project: Server) -> None:
    async def inside() -> None:
        metrics, conninfo = Metrics(), ProjectFolder(project.folder).embedded().conninfo
        async with connect(conninfo) as connection:
            first = await metrics.text(connection)
        assert await metrics.text(connection) == first, "no connection was needed"

    asyncio.run(inside())


def _read_teams(project: Server) -> None:
    httpx.get(f"{project.url}/teams", timeout=60)
