"""The account's pages: sign-in, and attacks by stolen or guessed secrets and by other sites."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import psycopg
import pytest

from axiom_server.project_folder import ProjectFolder
from tests.support.programs import Server, server

FACTS = {
    "name": "<script>alert(1)</script>", "os": "linux", "architecture": "x86_64", "cpu_cores": 2,
    "memory_bytes": 1 << 34, "disk_free_bytes": 1 << 34,
}  # fmt: skip

NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = server(tmp_path_factory.mktemp("accounts"))
    made.serve()
    try:
        yield made
    finally:
        assert made.stop() == 0


def join(project: Server, **fields: Any) -> Any:
    answer = httpx.post(f"{project.url}/api/v1/hosts", json={"host": FACTS, **fields})
    return answer.raise_for_status().json()


def link(project: Server, token: str) -> str:
    headers = {"Authorization": f"Bearer {token}"}
    answer = httpx.post(f"{project.url}/api/v1/account-links", headers=headers)
    return str(answer.raise_for_status().json()["path"])


@contextmanager
def signed_in(project: Server, key: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=project.url) as client:
        assert client.post("/account/sign-in", data={"key": key}).status_code == 303
        yield client


def form_token(client: httpx.Client) -> str:
    found = re.search(r'name="form_token" value="([0-9a-f]+)"', client.get("/account").text)
    assert found is not None
    return found[1]


def test_the_session_cookie_is_same_site_and_http_only(project: Server) -> None:
    key = join(project)["account_key"]
    answer = httpx.post(f"{project.url}/account/sign-in", data={"key": key})
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert "path=/account" in cookie


def test_account_pages_are_not_cached_and_escape_host_names(
    project: Server,
) -> None:
    with signed_in(project, join(project)["account_key"]) as client:
        page = client.get("/account/machines")
        assert page.headers["cache-control"] == "no-store"
        assert "<script>alert" not in page.text
        assert "&lt;script&gt;alert" in page.text
        assert "unsafe-inline" not in page.headers["content-security-policy"]


def test_a_link_works_once_and_replaces_a_lost_key(project: Server) -> None:
    joined = join(project)
    path = link(project, joined["token"])
    with httpx.Client(base_url=project.url) as client:
        assert client.get(path).status_code == 200, "looking at it does not use it"
        assert client.post(path).status_code == 303
        assert client.post(path).status_code == 403
        page = client.post("/account/key", data={"form_token": form_token(client)}).text
        found = re.search(r"<code>([\w-]+)</code>", page)
        assert found is not None
    refused = httpx.post(f"{project.url}/account/sign-in", data={"key": joined["account_key"]})
    assert refused.status_code == 403
    with signed_in(project, found[1]) as client:
        assert client.get("/account").status_code == 200


def test_a_form_of_another_site_or_page_is_refused(project: Server) -> None:
    key = join(project)["account_key"]
    with signed_in(project, key) as client:
        token = form_token(client)
        for headers, given in (({"Origin": "https://evil.example"}, token), ({}, ""), ({}, "é")):
            sent = client.post("/account/key", data={"form_token": given}, headers=headers)
            assert sent.status_code == 403
    with signed_in(project, key) as client:
        assert client.get("/account").status_code == 200


def test_an_account_cannot_see_or_change_anothers_machines(project: Server) -> None:
    hers, his = join(project), join(project)
    with signed_in(project, his["account_key"]) as client:
        token = form_token(client)
        for what in ("limit", "pause", "group"):
            fields = {
                "form_token": token, "what": what, "host": hers["host_id"], "share": "0",
                "group": "g",
            }  # fmt: skip
            assert client.post("/account/machines", data=fields).status_code == 303
    with signed_in(project, hers["account_key"]) as client:
        [host] = client.get("/account/data.json").json()["hosts"]
        assert host["host_id"] == hers["host_id"]
        assert (host["settings"], host["group"]) == (None, "")


def test_signing_out_ends_the_session_on_the_server(project: Server) -> None:
    with signed_in(project, join(project)["account_key"]) as client:
        kept = dict(client.cookies)
        client.post("/account/sign-out", data={"form_token": form_token(client)})
    assert httpx.get(f"{project.url}/account", cookies=kept).status_code == 401


def test_the_export_of_an_account_holds_no_secret(project: Server) -> None:
    joined = join(project)
    with signed_in(project, joined["account_key"]) as client:
        text = client.get("/account/data.json").text
        assert joined["account_key"] not in text
        assert joined["token"] not in text


def test_links_and_sessions_are_stored_hashed_and_expire(project: Server) -> None:
    joined = join(project)
    path = link(project, joined["token"])
    with signed_in(project, joined["account_key"]) as client, database(project) as stored:
        secrets = (path.rpartition("/")[2], client.cookies["axiom_session"])
        for table in ("sign_in_links", "web_sessions"):
            raw = str(stored.execute(f"SELECT {table}::text FROM {table}").fetchall())
            assert not any(secret in raw for secret in secrets)
            stored.execute(f"UPDATE {table} SET expires_at = now() - interval '1 second'")
        assert client.post(path).status_code == 403
        assert client.get("/account").status_code == 401


@contextmanager
def database(project: Server) -> Iterator[psycopg.Connection[Any]]:
    with (
        ProjectFolder(project.folder).database() as conninfo,
        psycopg.connect(conninfo, autocommit=True) as connection,
    ):
        yield connection


def act(client: httpx.Client, action: str, **fields: Any) -> int:
    fields["form_token"] = form_token(client)
    return client.post(f"/account/{action}", data=fields).status_code


def test_names_equal_or_similar_to_anothers_are_refused(project: Server) -> None:
    join(project, user="Marie Curie")
    with signed_in(project, join(project)["account_key"]) as client:
        assert act(client, "name", name="Marie Curie") == 409
        assert act(client, "name", name="Mar1e Cur1e".replace("1", "\u0456")) in (400, 409)
        assert act(client, "name", name="Lise Meitner") == 303
        assert "<h1>Lise Meitner</h1>" in client.get("/account").text


def test_teams_are_founded_joined_renamed_by_their_founder_and_left(project: Server) -> None:
    with (
        signed_in(project, join(project)["account_key"]) as founder,
        signed_in(project, join(project)["account_key"]) as member,
    ):
        assert act(founder, "team-found", name="Gauss & Co") == 303
        found = re.search(r'href="/teams/(\d+)">Gauss &amp; Co<', founder.get("/account").text)
        assert found is not None
        assert act(member, "team-found", name="gauss & co") == 409
        assert act(member, "team-join", team=found[1]) == 303
        assert act(member, "team-name", name="Mine now") == 409
        assert act(founder, "team-name", name="Euler & Co") == 303
        assert "Euler &amp; Co" in member.get("/account").text
        assert act(founder, "team-leave") == 303
        assert act(member, "team-name", name="Mine now") == 303, "the founder has handed it on"


def test_two_hosts_are_merged_and_the_old_token_is_revoked(project: Server) -> None:
    old = join(project)
    new = join(project, account_key=old["account_key"])
    stranger = join(project)
    with signed_in(project, old["account_key"]) as client, database(project) as stored:
        stored.execute("UPDATE hosts SET credit_total = 7 WHERE host_id = %s", (old["host_id"],))
        assert act(client, "merge", old=stranger["host_id"], new=new["host_id"]) == 400
        assert act(client, "merge", old=new["host_id"], new=new["host_id"]) == 400
        assert act(client, "merge", old=old["host_id"], new=new["host_id"]) == 303
        [host] = client.get("/account/data.json").json()["hosts"]
        assert (host["host_id"], host["credit_total"]) == (new["host_id"], 7)
        held = stored.execute(
            "SELECT token FROM hosts WHERE host_id = %s", (old["host_id"],)
        ).fetchone()
        assert held == (None,)


def test_a_merged_host_takes_its_sums_along(project: Server) -> None:
    old = join(project)
    new = join(project, account_key=old["account_key"])
    ids = {"old": old["host_id"], "new": new["host_id"]}
    with signed_in(project, old["account_key"]) as client, database(project) as stored:
        user = stored.execute("SELECT user_id FROM hosts WHERE host_id = %(old)s", ids).fetchone()
        assert user is not None
        stored.execute(
            """INSERT INTO host_sessions VALUES (%(old)s, 71, 2, 4), (%(old)s, 72, 1, 2),
                                                (%(new)s, 72, 3, 6)""", ids)  # fmt: skip
        stored.execute(
            "INSERT INTO host_outcomes VALUES (%(old)s, 'failed', 1), (%(new)s, 'failed', 2)", ids
        )
        stored.execute(
            "INSERT INTO user_sessions VALUES (%s, 72, 4, 8, 2, %s)",
            (user[0], [old["host_id"], new["host_id"]]),
        )
        assert act(client, "merge", **ids) == 303
        sums = stored.execute(
            """SELECT host_id, session_id, results, credit::int FROM host_sessions
               WHERE host_id IN (%(old)s, %(new)s) ORDER BY 2""", ids).fetchall()  # fmt: skip
        assert sums == [(new["host_id"], 71, 2, 4), (new["host_id"], 72, 4, 8)]
        failed = stored.execute(
            "SELECT host_id, tasks FROM host_outcomes WHERE host_id IN (%(old)s, %(new)s)", ids
        ).fetchall()
        assert failed == [(new["host_id"], 3)]
        earned = stored.execute(
            "SELECT hosts, first_hosts FROM user_sessions WHERE user_id = %s", user
        ).fetchall()
        assert earned == [(1, [new["host_id"]])]


def test_the_details_of_a_host_are_shown_to_its_owner_only(project: Server) -> None:
    mine, other = join(project), join(project)
    with database(project) as stored:
        stored.execute(
            """UPDATE hosts SET pace = 3.25, failing = 4, state_reason = 'odd numbers <i>'
               WHERE host_id = %s""", (mine["host_id"],))  # fmt: skip
        stored.execute(
            "INSERT INTO host_outcomes VALUES (%s, 'over_memory', 3)", (mine["host_id"],)
        )
    path = f"/account/hosts/{mine['host_id']}"
    with signed_in(project, mine["account_key"]) as client:
        page = client.get(path)
        assert page.headers["cache-control"] == "no-store"
        for text in ("3.25 times", "4 failures", "over_memory", "odd numbers &lt;i&gt;"):
            assert text in page.text
    with signed_in(project, other["account_key"]) as client:
        assert client.get(path).status_code == 404
    assert httpx.get(f"{project.url}{path}").status_code == 401
    public = httpx.get(f"{project.url}/hosts/{mine['host_id']}").raise_for_status().text
    for text in ("3.25", "failures", "over_memory", "odd numbers", "trusted after"):
        assert text not in public


def sync(project: Server, token: str) -> Any:
    body = {
        "request_id": f"modes-of-{next(NUMBERS)}", "status": {"state": "running"},
        "capacity": {"cpu_slots_free": 0, "cpu_slots": 2, "memory_free_bytes": 1,
                     "disk_free_bytes": 1},
    }  # fmt: skip
    headers = {"Authorization": f"Bearer {token}"}
    answer = httpx.post(f"{project.url}/api/v1/sync", json=body, headers=headers)
    return answer.raise_for_status().json().get("account")


def set_machines(client: httpx.Client, **fields: Any) -> int:
    fields["form_token"] = form_token(client)
    return client.post("/account/machines", data=fields).status_code


def test_a_mode_is_named_switched_and_deleted_for_all_machines(project: Server) -> None:
    first = join(project)
    second = join(project, account_key=first["account_key"])
    with signed_in(project, first["account_key"]) as client:
        assert set_machines(client, what="name mode", mode="", share="20") == 400
        assert set_machines(client, what="switch mode", mode="gaming") == 400
        assert set_machines(client, what="name mode", mode="gaming", share="20", gpus="0") == 303
        told = sync(project, first["token"])
        assert (told["settings"], told["mode"]) == ([], "")
        assert told["modes"]["gaming"]["cpu_share"] == 0.2, "to be switched on the host itself"
        assert set_machines(client, what="switch mode", mode="gaming") == 303
        assert "Mode <strong>gaming</strong> is on" in client.get("/account/machines").text
        for host in (first, second):
            told = sync(project, host["token"])
            assert [(s["cpu_share"], s["gpus"]) for s in told["settings"]] == [(0.2, 0)]
            assert told["mode"] == "gaming"
        assert set_machines(client, what="switch mode", mode="") == 303
        assert sync(project, second["token"])["settings"] == []
        assert set_machines(client, what="forget mode", mode="gaming") == 303
        assert "gaming" not in client.get("/account/machines").text


def test_deleting_an_account_leaves_an_anonymous_sum(project: Server) -> None:
    joined = join(project, user="Emmy Noether")
    with signed_in(project, joined["account_key"]) as client, database(project) as stored:
        stored.execute("UPDATE users SET credit_total = 9 WHERE name = 'Emmy Noether'")
        assert act(client, "delete", sure="no") == 400
        assert act(client, "delete", sure="delete") == 303
        assert client.get("/account").status_code == 401
        left = stored.execute("SELECT * FROM users WHERE credit_total = 9").fetchall()
        assert len(left) == 1
        assert "Noether" not in str(left)
        facts = stored.execute(
            "SELECT name, facts, token FROM hosts WHERE host_id = %s", (joined["host_id"],)
        ).fetchone()
        assert facts == ("deleted", {}, None)


def test_guessing_is_throttled(project: Server) -> None:
    """The last test of this file: it uses up what this address may get wrong."""
    url = f"{project.url}/account/sign-in"
    statuses = [httpx.post(url, data={"key": f"guess{n}"}).status_code for n in range(15)]
    assert statuses[0] == 403
    assert statuses[-1] == 429
