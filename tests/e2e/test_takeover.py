"""Data of 0.1.0 are taken over: its project, its agents, and its agents' requests."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import psycopg
import pytest

from axiom_server.project_folder import ProjectFolder
from tests.fixtures.v0_1_0 import messages
from tests.support.of_0_1_0 import (
    OldHost,
    agent_of,
    recorded,
    restored,
    values,
)
from tests.support.processes import wait_for
from tests.support.programs import Program, Server

BEFORE = recorded("before.json")


@pytest.fixture(scope="module")
def taken_over(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the project of 0.1.0, restored. Nothing uses it but its copies."""
    return restored(tmp_path_factory.mktemp("restored")).folder


@pytest.fixture
def project(taken_over: Path, tmp_path: Path) -> Iterator[Server]:
    """The project of 0.1.0, restored."""
    folder = tmp_path / "project"
    shutil.copytree(taken_over, folder, symlinks=True)
    made = Server(name="axiom-server", folder=folder, variable="AXIOM_SERVER_DIR")
    postgres = ProjectFolder(folder).embedded()
    postgres.open()  # held, so that the database does not stop and start for each command
    yield made
    made.stop()
    postgres.close()


def users(server: Server) -> dict[str, dict[str, Any]]:
    return {user["name"]: user for user in server.json("users", "list")}


# --- the project ----------------------------------------------------------------------------------


def test_users_credit_hosts_and_sessions_are_as_they_were(project: Server) -> None:
    assert project.json("users", "list") == BEFORE["users"]
    hosts = {host["host_id"]: host for host in project.json("hosts")}
    for host in BEFORE["hosts"]:
        found = hosts[host["host_id"]]
        assert found == host | {"idle_cpu": found["idle_cpu"], "idle_gpu": found["idle_gpu"]}
    totals = BEFORE["status"]["totals"]
    kept = ("users", "hosts", "leased", "to_review", "credited_results", "credit")
    found = project.json("status")["totals"]
    assert {key: found[key] for key in kept} == {key: totals[key] for key in kept}
    log = project.run("log")
    for line in ("- 12 results reviewed and credited (24 total credit)", "  Ada: +16 (host 1)",
                 "  Ben: +8 (host 2)", "- a sweep over walks next"):  # fmt: skip
        assert line in BEFORE["log"], "the recording says so"
        assert line in log


# --- its agents -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ada", "ben"])
def test_status_tasks_and_configuration_are_read(name: str, tmp_path: Path) -> None:
    agent, before = agent_of(name, tmp_path), BEFORE[name]
    shown = agent.json("status")
    for key in ("state", "who", "tasks", "tasks_waiting", "reports_unsent", "credit"):
        assert shown[key] == before["status"][key]
    assert agent.json("tasks")["tasks"] == before["status"]["tasks"]
    assert in_effect(before["config"]).items() <= in_effect(agent.json("config", "show")).items()
    agent.run("config", "check")


def in_effect(settings: dict[str, Any]) -> dict[str, tuple[object, bool]]:
    """Each key's value, and whether it is a default."""
    return {key: (line["value"], line["origin"] == "default") for key, line in settings.items()}


def test_a_key_is_set_in_the_old_file_and_all_else_stays(tmp_path: Path) -> None:
    agent = agent_of("ada", tmp_path)
    file = agent.folder / "config" / "config.toml"
    lines = file.read_text().splitlines()
    agent.run("config", "set", "cpu.cores", "2")
    assert file.read_text().splitlines() == [
        "cores = 2" if line == "cores = 1" else line for line in lines
    ]
    assert "# Ada: one core until the thesis is handed in" in lines


#: Shifts the times of hosts and their work, as if the last grant was six hours ago: no host counts
#: as live, and nothing was lost a day ago, after which any host may have it.
MAKE_RECENT = """
DO $$
DECLARE age interval; c record;
BEGIN
    SELECT now() - interval '6 hours' - max(granted_at) INTO age FROM tasks;
    FOR c IN SELECT table_name AS t, column_name AS n
             FROM information_schema.columns JOIN information_schema.tables
                  USING (table_schema, table_name)
             WHERE table_schema = 'public' AND table_type = 'BASE TABLE'
               AND table_name IN ('tasks', 'users', 'hosts', 'workunits', 'comparisons', 'queue')
               AND data_type = 'timestamp with time zone' AND is_generated = 'NEVER'
    LOOP
        EXECUTE format('UPDATE %I SET %I = %I + %L::interval', c.t, c.n, c.n, age);
    END LOOP;
END $$"""


def make_recent(project: Server) -> None:
    """Make the fixture as old as it was when the tests were written, on any day."""
    with (
        ProjectFolder(project.folder).database() as conninfo,
        psycopg.connect(conninfo) as connection,
    ):
        connection.execute(MAKE_RECENT)


@pytest.mark.parametrize(("leases", "of_ben"), [("hold", 6), ("ran out", 5)])
def test_interrupted_tasks_end_and_all_is_credited_once(
    project: Server, tmp_path: Path, leases: str, of_ben: int
) -> None:
    """Ada computes six workunits, Ben each of them too; not the one whose replica he let run out.

    Her third task has a checkpoint; of the first, the server has the report already.
    """
    check_everything(project)
    make_recent(project)
    deadline = "now() + interval '6 hours'" if leases == "hold" else "now() - interval '1 s'"
    values(project, f"UPDATE tasks SET deadline_at = {deadline} WHERE state = 'leased' RETURNING 1")
    project.serve()
    ada, ben = (agent_of(name, tmp_path, project.url) for name in ("ada", "ben"))
    if leases == "ran out":
        wait_for("the leases to end", lambda: not project.json("status")["totals"]["leased"])

    ada.run("run", "--until-idle", "--no-display")
    ben.start("run", "--no-display")
    wait_for("Ben's agent", lambda: ben.json("status")["state"] == "paused")
    ben.run("resume")
    wait_for("all results to be compared", lambda: settled(project, ben))
    ben.stop()
    ada.run("run", "--until-idle", "--no-display")  # what is left to check is hers
    assert ada.json("status")["tasks"] == []

    review = project.json("review")
    assert (review["results"], review["users"]) == (6 + of_ben, {"Ada": 12, "Ben": 2 * of_ben})
    assert {name: user["credit_total"] for name, user in users(project).items()} == {
        "Ada": 16 + 12, "Ben": 8 + 2 * of_ben,
    }  # fmt: skip
    assert project.json("review")["results"] == 0
    twice = "SELECT workunit_id, host_id FROM tasks JOIN results USING (task_id, workunit_id)"
    computed = values(project, twice)
    assert len(set(computed)) == len(computed) == 12 + 6 + of_ben


def check_everything(server: Server) -> None:
    """However long a host's record: else chance says which of its results are computed twice."""
    config = server.folder / "project.toml"
    written = config.read_text()
    assert "# trusted_after = 10 " in written
    config.write_text(written.replace("# trusted_after = 10 ", "trusted_after = 1000 "))


def settled(project: Server, agent: Program) -> bool:
    agent.run("sync")
    totals = project.json("status")["totals"]
    return [totals[key] for key in ("queued", "leased", "under_comparison")] == [0, 0, 0]


# --- requests of its agents -----------------------------------------------------------------------


def test_agents_of_0_1_0_attach_work_report_and_are_credited(
    server: Server, tmp_path: Path
) -> None:
    server.run("publish", str(old_walk(tmp_path)))
    server.run("deploy", "short_walk", "--count", "4")
    with OldHost(server.url, "Ada") as ada, OldHost(server.url, "Ben") as ben:
        assert [host.attach().user for host in (ada, ben)] == ["Ada", "Ben"]
        asked, *_, done = ada.syncs()
        assert [grant.task_id for grant in ada.sync(asked).grants] == [1, 2, 3, 4]
        answer = ada.sync(done)  # byte for byte what 0.1.0 sent, four reports in it
        assert {line.task_id: line.refusal for line in answer.acknowledged} == {
            1: "", 2: "", 3: "", 4: "",
        }  # fmt: skip
        wait_for("Ben to check what no dry run knows", lambda: checked(server, ben))
        assert server.json("review")["users"] == {"Ada": 8, "Ben": 6}
        ada.sync(asked, request_id="after-the-review")
        credit = ada.sync(asked, request_id="and-once-more").credit
        assert credit is not None
        assert (credit.host_total, credit.user_total) == (8, 8)

        ada.sync(asked, request_id="detach-00000001", draining="detached")
        refused = ada.send(asked)
        assert refused.status_code == 401
        assert msgspec.json.decode(refused.content, type=messages.Problem).title


def old_walk(folder: Path) -> Path:
    """The experiment as Ada's agent holds it, whose results were recorded."""
    (source,) = (agent_of("ada", folder).folder / "state" / "bundles" / "sources").iterdir()
    return source.rename(folder / "short_walk.py")


def checked(server: Server, host: OldHost) -> bool:
    host.work()
    totals = server.json("status")["totals"]
    return (totals["to_review"], totals["under_comparison"]) == (7, 0)


def test_bundles_lie_where_agents_of_0_1_0_look(project: Server) -> None:
    """Their names hold versions, which are counted on; a snapshot's is the time of its signing."""
    project.serve()
    wire = recorded("wire.json")
    paths = {line["path"]: line["status"] for line in wire if line["path"].startswith("/bundles/")}
    assert len(paths) >= 6
    for path, status in paths.items():
        if "snapshot" not in path and status == 200:
            assert httpx.get(project.url + path).status_code == 200, path


# --- data of a newer version ----------------------------------------------------------------------


def test_a_newer_database_is_left_alone_with_a_clear_message(project: Server) -> None:
    values(project, "UPDATE alembic_version SET version_num = '9999' RETURNING 1")
    told = project.run("status", code=5)
    assert "newer axiom-server" in told


def test_a_newer_journal_is_left_alone_with_a_clear_message(tmp_path: Path) -> None:
    agent = agent_of("ada", tmp_path)
    journal = agent.folder / "state" / "journal.sqlite"
    with sqlite3.connect(journal) as database:
        database.execute("PRAGMA user_version=99")
    told = agent.json("status")["notices"]
    assert any("written by a newer axiom-client (format 99)" in line for line in told), told
    assert journal.exists(), "only an agent that starts puts it aside"


def test_unknown_keys_are_named(project: Server, tmp_path: Path) -> None:
    config = project.folder / "project.toml"
    config.write_text(config.read_text() + "\n[telepathy]\nrange = 1\n")
    assert "telepathy" in project.run("deploy", "short_walk", "--count", "1", code=4)
    agent = agent_of("ada", tmp_path)
    file = agent.folder / "config" / "config.toml"
    file.write_text(file.read_text() + "\n[telepathy]\nrange = 1\n")
    assert "telepathy" in agent.run("config", "check", code=3)
