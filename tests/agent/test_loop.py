"""The agent as a real process: attach, run, crash, stop; nothing lost and nothing done twice."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.agent_process import AgentProcess
from tests.support.processes import still_running, wait_for
from tests.support.small_project import TOKEN, SmallProject, served


@pytest.fixture
def project(tmp_path: Path) -> SmallProject:
    return SmallProject(tmp_path / "project")


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[AgentProcess]:
    made = AgentProcess(tmp_path / "agent")
    yield made
    made.close()


def once(project: SmallProject) -> bool:
    """Whether every report arrived exactly once, not counting repeats of unanswered requests."""
    return all(len(found) == 1 for found in project.reports.values())


def test_attach_run_report_and_end(project: SmallProject, agent: AgentProcess) -> None:
    bundle = project.publish()
    ids = project.deploy(bundle, 7)
    with served(project) as url:
        assert "host 7 of Ada" in agent.ok("attach", url, "--user", "Ada")
        agent.ok("run", "--no-display", "--until-idle")
    assert project.outcomes() == dict.fromkeys(ids, "success")
    assert once(project)
    for [report] in project.reports.values():
        assert report.result["configs_done"] == 3
        assert 0 < report.elapsed_seconds < 60
        assert report.cpu_seconds > 0
    status = agent.json("status")
    assert (status["state"], status["tasks"], status["reports_unsent"]) == ("not running", [], 0)
    assert list((agent.folder / "state" / "tasks").iterdir()) == []


def test_identity_is_private_and_the_token_is_nowhere_else(
    project: SmallProject, agent: AgentProcess
) -> None:
    project.deploy(project.publish(), 1)
    with served(project) as url:
        agent.ok("attach", url)
        agent.ok("run", "--no-display", "--until-idle")
        agent.refused(5, "attach", url)
    identity = agent.folder / "state" / "identity.json"
    assert stat.S_IMODE(identity.stat().st_mode) == 0o600
    assert stat.S_IMODE(identity.parent.stat().st_mode) == 0o700
    for path in agent.folder.rglob("*"):
        if path.is_file() and path != identity:
            assert TOKEN.encode() not in path.read_bytes(), path


def test_a_killed_agent_repeats_running_tasks_and_leaves_no_process(
    project: SmallProject, agent: AgentProcess
) -> None:
    ids = project.deploy(project.publish(), 3, pause_seconds=6.0)
    with served(project) as url:
        agent.ok("attach", url)
        agent.start()
        wait_for("a task to run", lambda: agent.tasks("running"))
        family = agent.processes()
        agent.kill()
        assert not still_running(family, 30)
        assert agent.tasks("queued")  # the journal has them; the dead agent's socket is no obstacle
        agent.ok("run", "--no-display", "--until-idle")
    assert project.outcomes() == dict.fromkeys(ids, "success")
    assert once(project)
    assert max(found[0].attempts for found in project.reports.values()) == 2


def test_lost_answers_cost_nothing(project: SmallProject, agent: AgentProcess) -> None:
    ids = project.deploy(project.publish(), 4)
    with served(project) as url:
        agent.ok("attach", url)
        project.lose_answers = 2
        agent.ok("run", "--no-display", "--until-idle")
    assert project.outcomes() == dict.fromkeys(ids, "success")
    first, second, third = (request.request_id for request in project.requests[:3])
    assert first == second == third  # the same request, until it is answered


def test_while_the_server_is_away_work_continues_and_reports_wait(
    project: SmallProject, agent: AgentProcess
) -> None:
    ids = project.deploy(project.publish(), 4, pause_seconds=3.0)
    with served(project) as url:
        port = int(url.rsplit(":", 1)[1])
        agent.ok("attach", url)
        agent.start()
        wait_for("all to be granted", lambda: len(project.leased) == 4)
        wait_for("a task to run", lambda: agent.tasks("running"))
    wait_for("reports to wait", lambda: len(agent.tasks("ended")) == 4)
    status = agent.json("status")
    assert "nothing answers" in status["problem"]
    assert not project.reports
    with served(project, port):
        agent.ok("sync")
        wait_for("the reports", lambda: project.outcomes() == dict.fromkeys(ids, "success"))
        wait_for("the problem to be over", lambda: not agent.json("status")["problem"])
        assert agent.stop() == 0
    assert once(project)


def test_sigterm_keeps_started_tasks_and_gives_back_the_others(
    project: SmallProject, agent: AgentProcess
) -> None:
    bundle = project.publish()
    ids = project.deploy(bundle, 6, pause_seconds=30.0)
    with served(project) as url:
        agent.ok("attach", url)
        agent.start()
        wait_for("a task to run", lambda: agent.tasks("running"))
        wait_for("some to wait", lambda: agent.tasks("queued"))
        began = agent.tasks("running")
        wait_for(
            "a checkpoint", lambda: list((agent.folder / "state/tasks").glob("*/checkpoint.npz"))
        )
        assert agent.stop() == 0
        assert "ended: received SIGTERM" in agent.output()
        given_back = {i for i, outcome in project.outcomes().items() if outcome == "cancelled"}
        assert given_back
        assert given_back.isdisjoint(began)
        assert (
            sorted(given_back | project.leased.keys() | {g.task_id for g in project.queue}) == ids
        )
        assert agent.tasks("queued") == began
        project.queue.clear()
        agent.ok("run", "--no-display", "--until-idle")
    assert all(project.outcomes()[i] == "success" for i in began)


def test_second_agent_in_the_same_folder_is_refused(
    project: SmallProject, agent: AgentProcess
) -> None:
    with served(project) as url:
        agent.ok("attach", url)
        agent.start()
        wait_for("the agent", lambda: agent.json("status")["state"] == "running")
        assert "uses this folder already" in agent.refused(6, "run")
        assert "uses this folder already" in agent.refused(6, "detach")
        assert agent.stop() == 0


def test_work_cancelled_by_the_server_stops(project: SmallProject, agent: AgentProcess) -> None:
    ids = project.deploy(project.publish(), 1, pause_seconds=120.0)
    with served(project) as url:
        agent.ok("attach", url)
        agent.start()
        wait_for("the task to run", lambda: agent.tasks("running"))
        project.cancel = ids
        agent.ok("sync")
        wait_for("the report", lambda: project.outcomes() == {ids[0]: "cancelled"})
        assert agent.stop() == 0


def test_experiment_that_fails_is_reported_with_its_message(
    project: SmallProject, agent: AgentProcess
) -> None:
    source = (Path(__file__).parents[1] / "fixtures/experiments/short_walk.py").read_text()
    broken = source.replace("def run(task):", "def run(task):\n    raise OSError('no such luck')")
    ids = project.deploy(project.publish(broken.encode()), 2)
    with served(project) as url:
        agent.ok("attach", url)
        agent.ok("run", "--no-display", "--until-idle")
    assert project.outcomes() == dict.fromkeys(ids, "failed")
    assert all("no such luck" in found[0].message for found in project.reports.values())


def test_host_that_the_project_no_longer_knows(project: SmallProject, agent: AgentProcess) -> None:
    with served(project) as url:
        agent.ok("attach", url)
        identity = agent.folder / "state" / "identity.json"
        known = json.loads(identity.read_text())
        identity.write_text(json.dumps(known | {"token": "another-token"}))
        assert "attach again: axiom-client" in agent.refused(14, "run", "--no-display")


def test_detach_gives_everything_back_and_forgets(
    project: SmallProject, agent: AgentProcess
) -> None:
    ids = project.deploy(project.publish(), 2, pause_seconds=60.0)
    with served(project) as url:
        agent.ok("attach", url)
        agent.start()
        wait_for("a task to run", lambda: agent.tasks("running"))
        agent.kill()
        assert agent.ok("detach").strip() == "detached"
        assert project.outcomes() == dict.fromkeys(ids, "cancelled")
        agent.refused(4, "run")
        agent.ok("attach", url)


def test_a_full_disk_delays_the_agent_and_nothing_is_lost(
    project: SmallProject, agent: AgentProcess
) -> None:
    """A limit on file sizes simulates the full disk: the journal can no longer be written."""
    ids = project.deploy(project.publish(), 40)
    with served(project) as url:
        agent.ok("attach", url)
        agent.start_bounded(150_000)
        wait_for("the agent to be held up", lambda: agent.json("status")["state"] == "held up")
        assert "no space left" in agent.json("status")["reason"]
        assert agent.stop() == 20
        agent.ok("run", "--no-display", "--until-idle")
    assert project.outcomes() == dict.fromkeys(ids, "success")
