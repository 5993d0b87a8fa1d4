"""The staff pages: they need a staff key, and their actions equal those of the commands."""

from __future__ import annotations

import hashlib
import html
import re
from collections.abc import Iterator

import httpx
import pytest

from tests.support.programs import FIXTURES, Server, server


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = server(tmp_path_factory.mktemp("staff"))
    made.run("publish", str(FIXTURES / "experiments" / "short_walk.py"))
    made.serve()
    try:
        yield made
    finally:
        assert made.stop() == 0


@pytest.fixture(scope="module")
def client(project: Server) -> Iterator[httpx.Client]:
    key = project.json("staff", "add", "Grace")["key"]
    with httpx.Client(base_url=project.url) as made:
        assert made.post("/staff/sign-in", data={"key": key}).status_code == 303
        yield made


def token(page: str) -> str:
    found = re.search(r'name="form_token" value="([0-9a-f]+)"', page)
    assert found is not None
    return found[1]


def queued(project: Server) -> int:
    return int(project.json("status")["totals"]["queued"])


def test_account_keys_and_sessions_do_not_open_staff_pages(project: Server) -> None:
    facts = {
        "name": "h", "os": "linux", "architecture": "x86_64", "cpu_cores": 2,
        "memory_bytes": 1 << 34, "disk_free_bytes": 1 << 34,
    }  # fmt: skip
    key = httpx.post(f"{project.url}/api/v1/hosts", json={"host": facts}).json()["account_key"]
    with httpx.Client(base_url=project.url) as visitor:
        visitor.post("/account/sign-in", data={"key": key})
        assert visitor.get("/staff").status_code == 401
        assert visitor.post("/staff/sign-in", data={"key": key}).status_code == 403
        session = visitor.cookies["axiom_session"]
        assert (
            httpx.get(
                f"{project.url}/staff", headers={"Cookie": f"axiom_staff={session}"}
            ).status_code
            == 401
        )


def test_a_deployment_is_previewed_then_confirmed_and_recorded(
    project: Server, client: httpx.Client
) -> None:
    fields = {
        "form_token": token(client.get("/staff").text), "experiments": "short_walk", "count": "3",
    }  # fmt: skip
    before = queued(project)
    shown = client.post("/staff/deploy", data=fields)
    assert "3 workunits of short_walk" in shown.text
    assert queued(project) == before, "a dry run leaves nothing behind"
    assert client.post("/staff/deploy", data=fields | {"confirmed": "yes"}).status_code == 303
    assert queued(project) == before + 3
    newest = project.json("staff", "log")[0]
    assert (newest["who"], newest["action"]) == ("Grace", "deploy")
    assert newest["detail"] == {"experiments": ["short_walk"], "workunits": 3}


def test_a_script_is_tried_then_published_on_confirmation_and_recorded(
    project: Server, client: httpx.Client
) -> None:
    source = (FIXTURES / "experiments" / "short_walk.py").read_text()
    script = source.replace('name = "short_walk"', 'name = "long_walk"')
    page = client.get("/staff/publish").text
    fields = {"form_token": token(page), "script": script.replace("\n", "\r\n")}
    shown = client.post("/staff/publish", data=fields, timeout=300)
    assert shown.status_code == 200, shown.text
    assert "Publish long_walk@1.0.0?" in shown.text
    assert "2 runs of seed 1, the same bytes" in shown.text
    digest = hashlib.sha256(script.encode()).hexdigest()
    assert digest in shown.text, "line ends are as in the file"
    assert httpx.get(f"{project.url}/experiments/long_walk").status_code == 404
    sent = html.unescape(re.findall(r"<textarea[^>]*>\n(.*?)</textarea>", shown.text, re.S)[0])
    fields = {"form_token": token(shown.text), "script": sent, "confirmed": "yes"}
    assert client.post("/staff/publish", data=fields, timeout=300).status_code == 303
    assert digest in httpx.get(f"{project.url}/experiments/long_walk").raise_for_status().text
    newest = project.json("staff", "log")[0]
    assert (newest["who"], newest["action"]) == ("Grace", "publish")
    assert newest["detail"] == {"published": ["long_walk@1.0.0"]}


def test_a_script_that_is_none_or_fails_its_dry_run_is_refused(
    project: Server, client: httpx.Client
) -> None:
    form = token(client.get("/staff/publish").text)
    answer = client.post("/staff/publish", data={"form_token": form, "script": "print(1)"})
    assert answer.status_code == 400
    source = (FIXTURES / "experiments" / "short_walk.py").read_text()
    wrong = source.replace('name = "short_walk"', 'name = "no_walk"').replace(
        "    state = task.restore()", "    raise ValueError('it broke')\n    state = task.restore()"
    )
    fields = {"form_token": form, "script": wrong, "confirmed": "yes"}
    answer = client.post("/staff/publish", data=fields, timeout=300)
    assert answer.status_code == 400
    assert "its dry run ended as failed" in answer.text
    assert httpx.get(f"{project.url}/experiments/no_walk").status_code == 404


def test_staff_commands_are_in_the_audit_log(project: Server, client: httpx.Client) -> None:
    project.run("deploy", "short_walk", "--count", "1")
    log = project.json("staff", "log")
    assert log[0]["action"] == "deploy"
    assert log[0]["who"].startswith("command")
    assert "publish" in {line["action"] for line in log}


def test_a_form_without_the_sessions_token_is_refused(
    project: Server, client: httpx.Client
) -> None:
    before = queued(project)
    fields = {"experiments": "short_walk", "count": "3", "confirmed": "yes", "form_token": "no"}
    assert client.post("/staff/deploy", data=fields).status_code == 403
    assert queued(project) == before


def test_a_removed_key_ends_its_sessions(project: Server) -> None:
    key = project.json("staff", "add", "Gone")["key"]
    with httpx.Client(base_url=project.url) as made:
        assert made.post("/staff/sign-in", data={"key": key}).status_code == 303
        assert made.get("/staff").status_code == 200
        project.run("staff", "remove", "Gone")
        assert made.get("/staff").status_code == 401
