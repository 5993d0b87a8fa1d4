"""The network side of a serving process, over real sockets: what it answers, what it refuses."""

from __future__ import annotations

import gzip
import json
import os
import secrets
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from axiom_protocol.messages import BODY_BYTES_MAX
from tests.e2e.programs import FIXTURES, WAIT_SECONDS, Server, free_port, server, wait_for

FACTS: dict[str, Any] = {
    "name": "h", "os": "linux", "architecture": "x86_64", "cpu_cores": 4,
    "memory_bytes": 8 << 30, "disk_free_bytes": 1 << 40, "environments": ["numpy"],
}  # fmt: skip
CAPACITY = {"cpu_slots": 4, "cpu_slots_free": 4, "memory_free_bytes": 8 << 30}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = server(tmp_path_factory.mktemp("api"))
    made.run("publish", str(FIXTURES / "experiments" / "short_walk.py"))
    made.run("deploy", "short_walk", "--count", "500")
    made.serve()
    yield made
    assert made.stop() == 0


@pytest.fixture
def client(served: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served.url, timeout=30) as made:
        yield made


def enrol(client: httpx.Client, **more: Any) -> dict[str, Any]:
    answer = client.post("/api/v1/hosts", json={"host": FACTS, **more})
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


def sync(client: httpx.Client, token: str, **more: Any) -> httpx.Response:
    body = {"request_id": secrets.token_hex(8), "capacity": CAPACITY, **more}
    return client.post("/api/v1/sync", json=body, headers={"authorization": f"Bearer {token}"})


def problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    found: dict[str, Any] = answer.json()
    assert found["status"] == status
    assert found["title"]
    return found


def test_a_host_attaches_works_and_is_acknowledged(client: httpx.Client) -> None:
    assert client.get("/api/v1/project").json()["name"] == "Axiom"
    token = enrol(client)["token"]
    grants = sync(client, token).json()["grants"]
    assert len(grants) == 4
    bundle = client.get(
        f"/bundles/targets/{grants[0]['sha256']}.short_walk@{grants[0]['version']}.py"
    )
    assert b"[tool.axiom]" in bundle.content
    assert client.get("/bundles/metadata/timestamp.json").json()["signed"]["_type"] == "timestamp"
    reports = [
        {"task_id": g["task_id"], "outcome": "success", "elapsed_seconds": 1, "cpu_seconds": 1,
         "result": {"valid": 1, "configs_done": 3, "exponent": 0.5 + g["seed"] * 1e-4}}
        for g in grants
    ]  # fmt: skip
    answer = sync(client, token, reports=reports).json()
    assert [a["refusal"] for a in answer["acknowledged"]] == [""] * 4
    assert answer["credit"]["pending_results"] == 4


def test_an_account_takes_further_hosts(client: httpx.Client) -> None:
    first = enrol(client, user="  Ann \n  Example ")
    assert first["user"] == "Ann Example"
    second = enrol(client, account_key=first["account_key"])
    assert (second["user"], second["account_key"]) == ("Ann Example", "")
    taken = client.post("/api/v1/hosts", json={"host": FACTS, "user": "Ann Example"})
    assert "another name" in problem(taken, 409)["detail"]
    wrong = client.post("/api/v1/hosts", json={"host": FACTS, "account_key": "x" * 43})
    problem(wrong, 403)


def test_unknown_fields_are_tolerated(client: httpx.Client) -> None:
    token = enrol(client, from_the_future=1)["token"]
    assert sync(client, token, from_the_future={"a": [1]}).status_code == 200


def test_bodies_may_be_compressed_both_ways(client: httpx.Client) -> None:
    token = enrol(client)["token"]
    host = {**FACTS, "cpu_cores": 64}
    capacity = {**CAPACITY, "cpu_slots": 64, "cpu_slots_free": 64}
    body = {"request_id": secrets.token_hex(8), "capacity": capacity, "host": host}
    answer = client.post(
        "/api/v1/sync", content=gzip.compress(json.dumps(body).encode()),
        headers={"authorization": f"Bearer {token}", "content-encoding": "gzip"},
    )  # fmt: skip
    assert len(answer.json()["grants"]) == 64
    assert answer.headers["content-encoding"] == "gzip"


@pytest.mark.parametrize("token", ["", "Basic abc", "Bearer", "Bearer wrong", "Bearer \u00e9"])
def test_tokens_that_are_wrong(client: httpx.Client, token: str) -> None:
    answer = client.post(
        "/api/v1/sync", json={"request_id": "12345678", "capacity": {}},
        headers={"authorization": token.encode()},
    )  # fmt: skip
    problem(answer, 401)


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"request_id": "short", "capacity": {}}',
        b'{"request_id": "12345678"}', b'{"request_id": "12345678", "capacity": {"cpu_slots": -1}}',
        b'{"request_id": "12345678", "capacity": {}, "reports": [{"task_id": 1}]}',
        b'{"request_id": "12345678", "capacity": {}, "reports": ' + b"[" * 5000,
        b'{"request_id": "12345678", "capacity": {}, "protocol_version": "1"}',
    ],
)  # fmt: skip
def test_bodies_that_are_no_message(client: httpx.Client, body: bytes) -> None:
    token = enrol(client)["token"]
    answer = client.post("/api/v1/sync", content=body, headers={"authorization": f"Bearer {token}"})
    problem(answer, 400)


def test_another_protocol_version_is_told_so(client: httpx.Client) -> None:
    token = enrol(client)["token"]
    assert "update" in problem(sync(client, token, protocol_version=99), 426)["detail"]


def test_large_bodies_and_gzip_bombs_are_refused(client: httpx.Client) -> None:
    token = enrol(client)["token"]
    headers = {"authorization": f"Bearer {token}", "content-encoding": "gzip"}
    bomb = gzip.compress(b" " * (BODY_BYTES_MAX + 1))
    assert len(bomb) < 100_000
    problem(client.post("/api/v1/sync", content=bomb, headers=headers), 413)
    problem(client.post("/api/v1/sync", content=b"not gzip", headers=headers), 400)
    problem(client.post("/api/v1/sync", content=bomb[:1000], headers=headers), 400)
    headers["content-encoding"] = "br"
    problem(client.post("/api/v1/sync", content=b"x", headers=headers), 415)


@pytest.mark.parametrize(
    "text", ["nul \x00 byte", "half \\ud800 a pair", "<script>alert(1)</script>", "\u202eabc"]
)
def test_texts_of_volunteers_are_stored_or_refused_but_break_nothing(
    client: httpx.Client, text: str
) -> None:
    body = json.dumps({"host": {**FACTS, "name": text, "processor": text}, "user": ""})
    answer = client.post("/api/v1/hosts", content=body.replace("\\\\ud800", "\\ud800").encode())
    assert answer.status_code in (201, 400)
    if answer.status_code == 201:
        reports = [{"task_id": 1, "outcome": "failed", "elapsed_seconds": 0, "cpu_seconds": 0,
                    "message": text}]  # fmt: skip
        assert sync(client, answer.json()["token"], reports=reports).status_code == 200


@pytest.mark.parametrize(
    "path",
    ["/nowhere", "/bundles/metadata/absent.json", "/bundles/keys/root.pem",
     "/bundles/metadata/..%2f..%2fproject.toml", "/bundles/targets/.hidden"],
)  # fmt: skip
def test_what_is_not_there_is_not_found(client: httpx.Client, path: str) -> None:
    problem(client.get(path), 404)


def test_another_method_is_told_so(client: httpx.Client) -> None:
    problem(client.get("/api/v1/sync"), 405)


def test_many_requests_of_one_host_at_once_grant_no_more_than_it_holds(
    served: Server, client: httpx.Client
) -> None:
    """A client that sends its request again before the first is answered."""
    token = enrol(client)["token"]
    body = {"request_id": "the-same-request", "capacity": CAPACITY}

    def once(_: int) -> list[int]:
        answer = httpx.post(
            f"{served.url}/api/v1/sync", json=body, timeout=60,
            headers={"authorization": f"Bearer {token}"},
        )  # fmt: skip
        return [g["task_id"] for g in answer.json()["grants"]]

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(once, range(16)))
    assert len(answers[0]) == 4
    assert all(answer == answers[0] for answer in answers)


def test_many_hosts_at_once_never_share_a_task(served: Server) -> None:
    def host(_: int) -> list[int]:
        with httpx.Client(base_url=served.url, timeout=60) as client:
            answer = sync(client, enrol(client)["token"])
            return [g["task_id"] for g in answer.json()["grants"]]

    with ThreadPoolExecutor(12) as threads:
        granted = [task for tasks in threads.map(host, range(24)) for task in tasks]
    assert len(granted) == len(set(granted)) == 96


def test_a_port_in_use_is_one_clear_line(served: Server) -> None:
    error = served.run("serve", "--port", str(served.port), code=6)
    assert f"port {served.port}" in error
    assert error.count("\n") == 1


def test_acknowledged_reports_survive_the_kill_of_server_and_database(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    made = server(tmp_path_factory.mktemp("kill"))
    made.run("publish", str(FIXTURES / "experiments" / "short_walk.py"))
    made.run("deploy", "short_walk", "--count", "100")
    made.serve()
    acknowledged = []
    with httpx.Client(base_url=made.url, timeout=60) as client:
        token = enrol(client)["token"]
        grants = sync(client, token).json()["grants"]
        for _ in range(5):
            reports = [
                {"task_id": g["task_id"], "outcome": "success", "elapsed_seconds": 1,
                 "cpu_seconds": 1,
                 "result": {"valid": 1, "configs_done": 3, "exponent": 0.5 + g["seed"] * 1e-4}}
                for g in grants
            ]  # fmt: skip
            answer = sync(client, token, reports=reports).json()
            acknowledged += [a["task_id"] for a in answer["acknowledged"]]
            grants = answer["grants"]
    postmaster = int((made.folder / "postgres/data/postmaster.pid").read_text().split()[0])
    made.kill()
    os.kill(postmaster, signal.SIGKILL)
    made.serve()
    tasks = {t["task_id"]: t["outcome"] for t in made.json("tasks")}
    assert len(acknowledged) == 20
    assert all(tasks[task_id] == "success" for task_id in acknowledged)
    with httpx.Client(base_url=made.url, timeout=60) as client:
        again = sync(client, token, in_hand=[], reports=[]).json()
        assert len(again["grants"]) == 4, "what was in hand was lost, and granted again"
    assert made.stop() == 0


def test_a_killed_database_is_started_again_under_a_serving_process(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    made = server(tmp_path_factory.mktemp("revive"))
    config = made.folder / "project.toml"
    config.write_text(config.read_text().replace("[serve]", "[serve]\nround_seconds = 0.5"))
    made.serve()
    pid_file = made.folder / "postgres/data/postmaster.pid"
    os.kill(int(pid_file.read_text().split()[0]), signal.SIGKILL)
    with httpx.Client(base_url=made.url, timeout=60) as client:
        wait_for("the database to be back", lambda: made.ready() and _enrolled(client))
    assert made.stop() == 0


def _enrolled(client: httpx.Client) -> bool:
    return client.post("/api/v1/hosts", json={"host": FACTS}).status_code == 201


def test_two_serving_processes_on_one_database(
    served: Server, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Stateless: a host may speak to either, and one may die."""
    other = Server(
        name="axiom-server", folder=served.folder, variable="AXIOM_SERVER_DIR", port=free_port()
    )
    other.start("serve", "--port", str(other.port))
    wait_for("the second server", other.ready)
    with httpx.Client(timeout=60) as client:
        answer = client.post(f"{served.url}/api/v1/hosts", json={"host": FACTS})
        headers = {"authorization": f"Bearer {answer.json()['token']}"}
        body = {"request_id": "first-of-both", "capacity": CAPACITY}
        one = client.post(f"{other.url}/api/v1/sync", json=body, headers=headers).json()
        other.kill()
        two = client.post(f"{served.url}/api/v1/sync", json=body, headers=headers).json()
    assert [g["task_id"] for g in one["grants"]] == [g["task_id"] for g in two["grants"]]


def test_a_slow_sender_does_not_hold_the_others(served: Server, client: httpx.Client) -> None:
    with socket.create_connection(("127.0.0.1", served.port)) as slow:
        slow.sendall(b"POST /api/v1/sync HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
        assert client.get("/healthz", timeout=WAIT_SECONDS).text == "ok\n"


def test_pages_show_the_project_and_escape_what_volunteers_wrote(
    served: Server, client: httpx.Client
) -> None:
    name = "<b onclick=alert(1)>Bobby</b>"
    token = enrol(client, user=name)["token"]
    grants = sync(client, token).json()["grants"]
    reports = [
        {"task_id": g["task_id"], "outcome": "success", "elapsed_seconds": 1, "cpu_seconds": 1,
         "result": {"valid": 1, "configs_done": 3, "exponent": 0.5 + g["seed"] * 1e-4}}
        for g in grants
    ]  # fmt: skip
    sync(client, token, reports=reports)
    served.run("host", "quarantine", "1")
    session = served.json("review")["session"] or 1
    page = client.get("/")
    assert page.status_code == 200
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "Short walk" in page.text
    assert name not in page.text
    assert "&lt;b onclick=alert(1)&gt;Bobby" in page.text
    log = client.get(f"/sessions/{session}")
    assert name not in log.text
    problem(client.get("/sessions/999"), 404)
    problem(client.get("/sessions/99999999999999999999999"), 404)


def test_metrics_count_what_happened(client: httpx.Client) -> None:
    sync(client, enrol(client)["token"])
    text = client.get("/metrics").text
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(lines["axiom_grants_total"]) >= 4
    assert float(lines["axiom_sync_seconds_count"]) >= 1
    assert float(lines['axiom_project{what="hosts"}']) >= 1
