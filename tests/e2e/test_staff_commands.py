"""Staff commands as processes: inspection, management, backups; and one line for each error."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from axiom_server.project_folder import ProjectFolder
from tests.support.programs import FIXTURES, Program, Server, server

WALK = str(FIXTURES / "experiments" / "short_walk.py")


@pytest.fixture(scope="module")
def staff(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = server(tmp_path_factory.mktemp("staff"))
    postgres = ProjectFolder(made.folder).embedded()
    postgres.open()  # held, so that the database does not stop and start for each command
    made.run("publish", WALK)
    made.run("deploy", "short_walk", "--count", "20")
    yield made
    postgres.close()


@pytest.mark.parametrize(
    "words", [["status"], ["hosts"], ["users", "list"], ["tasks"], ["experiments"], ["review"]]
)
def test_reading_commands_print_text_and_json(staff: Server, words: list[str]) -> None:
    staff.run(*words)
    staff.json(*words)


def test_an_experiment_that_fails_its_dry_run_is_not_published(
    staff: Server, tmp_path: Path
) -> None:
    text = Path(WALK).read_text().replace('name = "short_walk"', 'name = "random_walk"')
    text = text.replace('"exponent": exponent', '"exponent": exponent + 1e-9 * time.time() % 1')
    path = tmp_path / "random_walk.py"
    path.write_text(text)
    error = staff.run("publish", WALK, str(path), code=13)
    assert "two runs of seed 1 gave different bytes (exponent)" in error
    assert [e["name"] for e in staff.json("experiments")] == ["short_walk"]
    assert "give one of dry-run, determinism" in staff.run("publish", WALK, "--skip", "it", code=2)
    published = staff.json("publish", str(path), "--skip", "determinism", "--budget", "0.1")
    (tried,) = published["tried"].values()
    assert (tried["runs"], tried["skipped"]) == (1, ["determinism"])
    assert staff.json("publish", str(path))["tried"] == {}  # known: nothing is signed, nothing run


@pytest.mark.parametrize(
    ("words", "code", "hint"),
    [
        (["deploy", "short_wlak", "--count", "1"], 8, "did you mean short_walk"),
        (["deploy", "short_walk"], 2, "--fill-idle or --count"),
        (["deploy", "short_walk", "--count", "0"], 2, "--count must be at least 1, not 0"),
        (["deploy", "short_walk", "--hosts", "mine"], 2, "--hosts takes numbers, not 'mine'"),
        (["deploy", "short_walk", "--fill-idle", "--ceiling", "5"], 2, "give --count N"),
        (["deploy", "short_walk", "--count", "1", "--gpu"], 2, "runs on a GPU"),
        (["deploy", "short_walk", "--count", "1", "--hosts", "77"], 12, "no host 77"),
        (["publish", "/nowhere.py"], 9, "No such file"),
        (["publish", "/etc"], 9, "is a folder"),
        (["publish", __file__], 7, "metadata"),
        (["import", "/nowhere.json"], 9, "No such file"),
        (["log", "99"], 12, "no session 99"),
        (["tasks", "--state", "running"], 2, "leased, reported, reviewed, lost"),
        (["host", "quarantine", "99"], 12, "no host 99"),
        (["experiments", "retire", "nothing"], 8, "no experiment 'nothing'"),
        (["restore", "/etc/hostname", "PROJECT"], 9, "holds a project already"),
    ],
)
def test_errors_are_one_line_and_an_exit_code(
    staff: Server, words: list[str], code: int, hint: str
) -> None:
    words = [str(staff.folder) if word == "PROJECT" else word for word in words]
    error = staff.run(*words, code=code)
    assert hint in error
    assert error.startswith("axiom-server: ")
    assert error.count("\n") == 1


def test_no_project_is_one_line(tmp_path: Path) -> None:
    nobody = Program(name="axiom-server", folder=tmp_path / "none", variable="AXIOM_SERVER_DIR")
    error = nobody.run("status", code=3)
    assert "axiom-server init" in error
    assert error.count("\n") == 1


def test_a_config_key_that_does_not_exist_is_named(staff: Server) -> None:
    config = staff.folder / "project.toml"
    before = config.read_text()
    try:
        config.write_text(before.replace("[serve]", "[serve]\nsinc_seconds = 5"))
        assert "sinc_seconds" in staff.run("review", code=4)
        config.write_text(before.replace("[serve]", "[serve"))
        assert "project.toml" in staff.run("review", code=4)
    finally:
        config.write_text(before)


def test_accounts_are_made_once(staff: Server) -> None:
    key = staff.json("users", "add", "Ann")["account_key"]
    assert len(key) > 40
    assert "taken" in staff.run("users", "add", "Ann", code=2)


def test_retiring_withdraws_and_resuming_brings_back(staff: Server) -> None:
    queued = staff.json("status")["totals"]["queued"]
    staff.run("experiments", "retire", "short_walk")
    assert staff.json("status")["totals"]["queued"] == 0
    assert "is retired" in staff.run("deploy", "short_walk", "--count", "1", code=8)
    staff.run("experiments", "resume", "short_walk")
    assert staff.json("status")["totals"]["queued"] == queued


def test_a_sweep_deploys_every_parameter_set(staff: Server, tmp_path: Path) -> None:
    sweep = tmp_path / "sweep.toml"
    sweep.write_text("[product]\nwalks = [20, 30, 40]\npause_seconds = [0.0, 0.1]\n")
    made = staff.json("deploy", "short_walk", "--count", "5", "--parameters", str(sweep))
    assert made["workunits"] == 30
    sweep.write_text("[product]\nwalks = [1]\n")
    assert "at least 10" in staff.run(
        "deploy", "short_walk", "--count", "5", "--parameters", str(sweep), code=2
    )
    sweep.write_text("[products]\nwalks = [20]\n")
    staff.run("deploy", "short_walk", "--count", "5", "--parameters", str(sweep), code=9)


def test_named_hosts_get_work_for_their_idle_slots(staff: Server) -> None:
    """In every way in which several hosts can be written."""
    history = FIXTURES / "session_2026-03-02_0300.json"
    staff.run("import", str(history))
    assert staff.json("deploy", "short_walk", "--hosts", "296")["hosts"] == {
        "296": {"cpu": 240, "gpu": 0}
    }
    for hosts in (["--hosts", "287", "194"], ["--hosts=141,269"]):
        assert len(staff.json("deploy", "short_walk", *hosts)["hosts"]) == 2
    made = staff.json("deploy", "short_walk", "--count", "3", "--hosts", "296", "287")
    assert (made["workunits"], made["pool"]) == (6, 0)


def test_a_ceiling_limits_the_queue(staff: Server) -> None:
    waiting = sum(e["pool"] for e in staff.json("status")["experiments"])
    words = ("deploy", "short_walk", "--count", "100", "--ceiling", str(waiting + 30))
    assert staff.json(*words, "--weight", "2")["workunits"] == 30
    assert "wait already" in staff.run(*words)
    assert [e["weight"] for e in staff.json("experiments") if e["name"] == "short_walk"] == [2]


def test_ten_thousand_workunits_are_deployed_at_once(staff: Server) -> None:
    assert staff.json("deploy", "short_walk", "--count", "10000")["workunits"] == 10_000


def test_a_backup_is_a_whole_project_without_its_keys(staff: Server, tmp_path: Path) -> None:
    archive = tmp_path / "project.tar.gz"
    staff.run("backup", str(archive))
    staff.run("backup", str(archive), code=9)
    with tarfile.open(archive) as opened:
        names = opened.getnames()
    assert {"database.dump", "project.toml"} <= set(names)
    assert any(name.endswith("root.json") for name in names)
    assert not any("keys" in name for name in names)
    copy = Server(name="axiom-server", folder=tmp_path / "copy", variable="AXIOM_SERVER_DIR")
    copy.run("restore", str(archive), str(copy.folder))
    before, after = staff.json("status"), copy.json("status")
    assert json.dumps(before) == json.dumps(after)
    assert "not a backup" in copy.run("restore", WALK, str(tmp_path / "other"), code=9)
