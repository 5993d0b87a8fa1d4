"""The evening of 2 March 2026: imported, reviewed, deployed, and its session log printed again."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from axiom_server.project_folder import ProjectFolder
from tests.support.programs import FIXTURES, Server, server

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
    postgres = ProjectFolder(staff.folder).embedded()
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
    staff.run("publish", *(str(experiment(name)) for name in names), "--budget", "1")
    found["deploy"] = staff.json("deploy", *names, "--fill-idle")
    found["deploy_again"] = staff.json("deploy", *names, "--fill-idle")
    found["import_after"] = staff.json("import", str(HISTORY))
    found["deploy_after_import"] = staff.json("deploy", *names, "--fill-idle")
    found["log"] = staff.run("log")
    found["log_json"] = staff.json("log")
    found["users"] = staff.json("users", "list")
    found["hosts"] = staff.json("hosts")
    return found


def test_the_history_is_imported_once(evening: dict[str, Any]) -> None:
    assert evening["imported"]["results"] == 1065
    assert evening["twice"]["results"] == evening["import_after"]["results"] == 0
    assert evening["after_twice"]["results"] == 0


def test_the_review_credits_as_the_log_does(evening: dict[str, Any]) -> None:
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


#: The log of that evening as written by its staff, with one wrong figure corrected: 473 x 5 is
#: 2,365, which agrees with its own total of 4,696.
ORIGINAL = " ".join((FIXTURES / "session-log-2026-03-02.txt").read_text().split()).replace(
    f"473 results {TIMES} 5 credit = 2,350", f"473 results {TIMES} 5 credit = 2,365"
)
HEADINGS = (
    "SESSION SUMMARY", "CREDIT AWARDED", "EXPERIMENTS DEPLOYED", "NEW EXPERIMENT",
    "KEY SCIENTIFIC FINDINGS", "NEXT STEPS",
)  # fmt: skip
#: Section -> a regular expression whose groups are the figures in it.
FIGURES = {
    "SESSION SUMMARY": (
        r"([\d,]+) results reviewed and credited \(([\d,]+) total credit\)",
        r"([\d,]+) new workunits deployed across (\d+) hosts",
        r"(\d+) new experiment designed and deployed: (?i:rank dynamics)",
    ),
    "CREDIT AWARDED": (
        r"CREDIT AWARDED \(([\d,]+) total\)",
        rf"([\d+-]+)s?(?: elapsed)?: (\d+) results {TIMES} (\d+) credit = ([\d,]+)",
        r"(?:\)|totals:) ([^:]+?): \+([\d,]+)(?= \()",
        r"\+[\d,]+ \((\d+ hosts|hosts? [\d, ]+)\)",
    ),
    "EXPERIMENTS DEPLOYED": (
        r"EXPERIMENTS DEPLOYED \(([\d,]+) workunits\)",
        r"(\d)\. (\w+)\.py \N{EM DASH} (NEW)?",
        r"Host (\d+) \(([^)]+)\): (\d+) tasks \((\d+) (?:idle CPU )?cores(?: \+ (\d+) GPUs?)?\)",
        r"\+ (\d+) more hosts \((\d+) cores each",
        r"(GPU workunits also deployed to) (?:\d+ )?hosts with idle GPUs",
    ),
    "NEW EXPERIMENT": (
        r"NEW EXPERIMENT: (RANK DYNAMICS)", r"Script: (\w+\.py)", r"(Question): \w",
        r"(Design rationale): - \w", r"(Configuration sweep)",
        r"(Local test results) \([\d.,]+ seconds\)",
        r"(0\.005, 0\.02, 0\.1)", r"\b(400)\b", r"(?:every\w*:?) (5) epochs|snapshot_every: (5)",
    ),
    "KEY SCIENTIFIC FINDINGS": (r"The (1,065) new results|(1,065) of the results",),
    "NEXT STEPS": (r"(Review rank_dynamics results as they come in from 45 hosts)",),
}  # fmt: skip


def sections(log: str) -> dict[str, str]:
    """A log's text by its headings, white space and underlines made one space."""
    text = " ".join(re.sub(r"={3,}", " ", log).split())
    starts = [text.index(heading) for heading in HEADINGS]
    assert starts == sorted(starts), "the sections come in the original's order"
    ends = [*starts[1:], len(text)]
    return {h: text[a:b] for h, a, b in zip(HEADINGS, starts, ends, strict=True)}


def figures(log: str) -> dict[str, list[list[tuple[str, ...]]]]:
    """All that each expression finds in its section; groups of alternatives are made one."""
    return {
        heading: [
            [tuple(g or "" for g in m.groups()) for m in re.finditer(expression, text)]
            for expression in FIGURES[heading]
        ]
        for heading, text in sections(log).items()
    }


@pytest.mark.parametrize("heading", HEADINGS)
def test_the_log_matches_the_original_section_by_section(
    evening: dict[str, Any], heading: str
) -> None:
    ours, theirs = figures(evening["log"])[heading], figures(ORIGINAL)[heading]
    for expression, mine, wanted in zip(FIGURES[heading], ours, theirs, strict=True):
        assert wanted, f"{expression} is in the original"
        if heading in ("KEY SCIENTIFIC FINDINGS", "NEW EXPERIMENT"):  # written in other words
            wanted = [("".join(groups),) for groups in wanted[:1]]
            mine = [("".join(groups),) for groups in mine[:1]]
        assert mine == wanted, expression


def test_the_original_has_every_user_host_and_tier() -> None:
    """The expressions above find all of the original, not a part of it."""
    credit, deployed = (
        figures(ORIGINAL)["CREDIT AWARDED"],
        figures(ORIGINAL)["EXPERIMENTS DEPLOYED"],
    )
    assert [len(lines) for lines in credit] == [1, 4, 18, 18]
    assert [len(lines) for lines in deployed] == [1, 6, 5, 1, 1]
    users = {name: int(sum_.replace(",", "")) for name, sum_ in credit[2]}
    assert users == EXPECTED["per_user"]
    results = [(int(n), int(c.replace(",", ""))) for _, n, _, c in credit[1]]
    assert results == [(t["results"], t["credit"]) for t in EXPECTED["per_tier"]]


def test_the_log_as_json_has_the_same_figures(evening: dict[str, Any]) -> None:
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
