"""The evening of 2 March 2026: imported, reviewed, deployed, and its session log printed again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from axiom_server.folder import Folder
from tests.e2e.programs import FIXTURES, Server, server

REPOSITORY = Path(__file__).parents[2]
HISTORY = FIXTURES / "session_2026-03-02_0300.json"
EXPECTED: dict[str, Any] = json.loads(HISTORY.read_text())["expected"]
TIMES = "\N{MULTIPLICATION SIGN}"
MAJOR = {"296": (240, 0), "287": (192, 2), "194": (128, 1), "141": (72, 2), "269": (64, 1)}


def experiment(name: str) -> Path:
    """The library's experiment of that name."""
    return REPOSITORY / "experiments" / f"{name}.py"


@pytest.fixture(scope="module")
def evening(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Everything the evening prints, in the order it happened."""
    staff: Server = server(tmp_path_factory.mktemp("evening"))
    postgres = Folder(staff.folder).embedded()
    postgres.open()  # held, so that the database does not stop and start for each command
    try:
        return play(staff)
    finally:
        postgres.close()


def play(staff: Server) -> dict[str, Any]:
    """What staff typed."""
    names = EXPECTED["experiments"]
    found: dict[str, Any] = {"imported": staff.json("import", str(HISTORY))}
    found["review"] = staff.json("review")
    found["again"] = staff.json("review")
    found["twice"] = staff.json("import", str(HISTORY))
    found["after_twice"] = staff.json("review")
    staff.run("publish", *(str(experiment(name)) for name in names))
    found["deploy"] = staff.json("deploy", *names, "--fill-idle")
    found["deploy_again"] = staff.json("deploy", *names, "--fill-idle")
    found["import_after"] = staff.json("import", str(HISTORY))
    found["deploy_after_import"] = staff.json("deploy", *names, "--fill-idle")
    found["log"] = staff.run("log")
    found["log_json"] = staff.json("log")
    found["users"] = staff.json("users", "list")
    found["hosts"] = staff.json("hosts")
    return found


def test_the_history_comes_in_once(evening: dict[str, Any]) -> None:
    assert evening["imported"]["results"] == 1065
    assert evening["twice"]["results"] == evening["import_after"]["results"] == 0
    assert evening["after_twice"]["results"] == 0


def test_the_review_credits_what_the_log_says(evening: dict[str, Any]) -> None:
    review = evening["review"]
    assert (review["results"], review["credit"]) == (1065, 4696)
    tiers = [{"results": t["results"], "credit": t["credit"]} for t in review["tiers"]]
    assert tiers == EXPECTED["per_tier"]
    assert review["users"] == EXPECTED["per_user"]


def test_reviewing_again_credits_nothing(evening: dict[str, Any]) -> None:
    again = evening["again"]
    assert (again["results"], again["credit"], again["users"]) == (0, 0, {})
    totals = {user["name"]: user["credit_total"] for user in evening["users"]}
    assert totals == EXPECTED["per_user"]


def test_every_idle_host_is_filled_exactly(evening: dict[str, Any]) -> None:
    deployed = evening["deploy"]
    assert deployed["workunits"] == 2001
    assert len(deployed["hosts"]) == 45
    for host, (cpu, gpu) in MAJOR.items():
        assert deployed["hosts"][host] == {"cpu": cpu, "gpu": gpu}
    idle = {str(h["host_id"]): h for h in json.loads(HISTORY.read_text())["idle_hosts"]}
    for host, given in deployed["hosts"].items():
        assert (given["cpu"], given["gpu"]) == (idle[host]["cpu_cores"], idle[host]["gpus"])
    counts = deployed["experiments"].values()
    assert max(counts) - min(counts) <= 1, "experiments are spread evenly"


def test_filled_hosts_are_not_filled_again(evening: dict[str, Any]) -> None:
    assert evening["deploy_again"]["workunits"] == 0
    assert evening["deploy_after_import"]["workunits"] == 0


def test_the_log_matches_the_original_section_by_section(evening: dict[str, Any]) -> None:
    log = evening["log"]
    for line in (
        "1,065 results reviewed and credited (4,696 total credit)",
        "2,001 new workunits deployed across 45 hosts",
        "1 new experiment designed and deployed: Rank dynamics",
        "CREDIT AWARDED (4,696 total)",
        "EXPERIMENTS DEPLOYED (2,001 workunits)",
        "Host 296 (epyc7v12): 240 tasks (240 idle CPU cores)",
        "Host 287 (DESKTOP-N5RAJSE): 192 + 2 tasks (192 cores + 2 GPUs)",
        "Host 194 (7950x): 128 + 1 tasks (128 cores + 1 GPU)",
        "Host 141 (SPEKTRUM): 72 + 2 tasks (72 cores + 2 GPUs)",
        "Host 269 (JM7): 64 + 1 tasks (64 cores + 1 GPU)",
        "+ 40 more hosts (32 cores each",
        "NEW EXPERIMENT: RANK DYNAMICS",
        "Script: rank_dynamics.py",
        "KEY SCIENTIFIC FINDINGS",
        "NEXT STEPS",
        "Review rank_dynamics results as they come in from 45 hosts",
    ):
        assert line in log
    lines = [" ".join(line.split()) for line in log.splitlines()]
    for line in (
        f"0-99s elapsed: 473 results {TIMES} 2 credit = 946",
        f"100-999s elapsed: 473 results {TIMES} 5 credit = 2,365",
        f"1000-9999s elapsed: 80 results {TIMES} 10 credit = 800",
        f"10000+s elapsed: 39 results {TIMES} 15 credit = 585",
        "Steve Dodd: +2,104 (hosts 85, 87, 123)",
        "ChelseaOilman: +1,666 (14 hosts)",
        "Coleslaw: +220 (host 323)",
        "Manuel Stenschke: +98 (hosts 86, 346)",
        "zombie67 [MM]: +2 (host 15)",
    ):
        assert line in lines
    order = [log.index(f": +{EXPECTED['per_user'][u]:,}") for u in ("Steve Dodd", "Coleslaw")
             if f": +{EXPECTED['per_user'][u]:,}" in log]  # fmt: skip
    assert order == sorted(order)


def test_the_log_for_machines_says_the_same(evening: dict[str, Any]) -> None:
    log = evening["log_json"]
    assert (log["session"], log["results"], log["credit"]) == (1, 1065, 4696)
    assert log["deployed"]["workunits"] == 2001
    assert [new["name"] for new in log["new_experiments"]] == ["rank_dynamics"]
    assert log["user_hosts"]["makracz"] == [143, 209]


def test_hosts_keep_their_numbers_and_names(evening: dict[str, Any]) -> None:
    by_id = {host["host_id"]: host for host in evening["hosts"]}
    assert by_id[296]["name"] == "epyc7v12"
    assert by_id[85]["user"] == "Steve Dodd"
    assert by_id[323]["credit_total"] == 220


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("{", "not a project's history"),
        ("[]", "not a project's history"),
        ('{"results": [{"result_id": 1}]}', "missing required field `user`"),
        ('{"results": [{"result_id": 1, "user": "a", "host_id": 1, "experiment": "x", '
         '"elapsed_seconds": -5}]}', "elapsed_seconds"),
        ('{"results": [{"result_id": 1, "user": "a", "host_id": 1, "experiment": "x", '
         '"elapsed_seconds": 5}, {"result_id": 1, "user": "a", "host_id": 1, "experiment": "x", '
         '"elapsed_seconds": 5}]}', "occurs twice"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_history_is_one_clear_line(
    text: str, hint: str, tmp_path: Path, one_project: Server
) -> None:
    file = tmp_path / "history.json"
    file.write_text(text)
    error = one_project.run("import", str(file), code=9)
    assert hint in error
    assert len(error.strip().splitlines()) == 1
    assert one_project.run("import", str(tmp_path / "absent.json"), code=9).count("\n") == 1


@pytest.fixture(scope="module")
def one_project(tmp_path_factory: pytest.TempPathFactory) -> Server:
    return server(tmp_path_factory.mktemp("import"))
