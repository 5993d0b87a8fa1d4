"""Two agents with one identity, on a real PostgreSQL: neither affects the other's tasks."""

from __future__ import annotations

import itertools

import msgspec

from axiom_protocol.messages import AgentRun, Report, SyncAnswer
from tests.support.server_project import Host, ServerProject

SILENT_SECONDS = 151.0


class Run:
    """One run of a host's agent; a copy shares the host's token and what it held."""

    def __init__(self, host: Host, name: str, place: str = "") -> None:
        self.host = Host(host.project, host.host_id, host.token, host.cores, host.gpus)
        self.host.held = dict(host.held)
        self.name, self.place = name, place or f"place of {name}"
        self._numbers = itertools.count(1)

    def sync(
        self, reports: list[Report] | None = None, *, ending: bool = False, **more: object
    ) -> SyncAnswer:
        run = AgentRun(run=self.name, place=self.place, ending=ending)
        request_id = f"{self.name}-{next(self._numbers):06d}"
        return self.host.sync(reports, request_id=request_id, run=run, **more)


def states(project: ServerProject) -> dict[str, int]:
    return dict(project.rows("SELECT state, count(*) FROM tasks GROUP BY state"))


def later(project: ServerProject, seconds: float) -> None:
    """Let time pass, also for what the runs were seen at."""
    project.later(seconds)
    [[runs]] = project.rows("SELECT runs FROM hosts LIMIT 1")
    moved = [{**run, "seen_at": run["seen_at"] - seconds} for run in runs]
    project.execute("UPDATE hosts SET runs = %s::jsonb", msgspec.json.encode(moved).decode())


def test_a_copy_takes_nothing_and_cancels_nothing(project: ServerProject) -> None:
    project.deploy("short_walk", count=12)
    host = project.host(cores=4)
    copied_before = Run(host, "copy")
    original = Run(host, "original")
    original.sync()
    waiting = copied_before.sync()
    assert (waiting.grants, waiting.cancelled, waiting.identity) == ([], [], "unclear")
    assert states(project) == {"leased": 4}
    again = original.sync()
    assert (again.cancelled, again.identity) == ([], "")
    assert copied_before.sync().identity == "copied"
    assert len(original.host.held) == 4
    assert states(project) == {"leased": 4}


def test_reports_of_a_copy_end_no_task_of_the_original(project: ServerProject) -> None:
    project.deploy("short_walk", count=4)
    host = project.host(cores=4)
    original = Run(host, "original")
    original.sync()
    copy = Run(original.host, "copy")
    project.later(60)
    held = list(original.host.held.values())
    given_back = [Report(task_id=g.task_id, outcome="cancelled", elapsed_seconds=0, cpu_seconds=0)
                  for g in held[:2]]  # fmt: skip
    answer = copy.sync([*given_back, *(host.success(g) for g in held[2:])])
    assert (answer.acknowledged, states(project)) == ([], {"leased": 4})
    original.sync()
    assert copy.sync([host.success(g) for g in held]).acknowledged == []
    done = original.sync([host.success(g) for g in held])
    assert [a.refusal for a in done.acknowledged] == [""] * 4
    assert done.cancelled == []


def test_the_facts_of_a_copy_do_not_replace_the_original_ones(project: ServerProject) -> None:
    host = project.host(cores=4)
    original, copy = Run(host, "original"), Run(host, "copy")
    original.sync()
    [[facts]] = project.rows("SELECT facts FROM hosts")
    facts |= {"cpu_cores": 64, "name": "other"}
    copy.sync(host=facts)
    assert project.rows("SELECT cpu_cores, idle_cpu FROM hosts") == [(4, 4)]


def test_a_restart_in_the_same_place_goes_on_at_once(project: ServerProject) -> None:
    """Also with an empty journal: tasks that it no longer has are queued again at once."""
    project.deploy("short_walk", count=8)
    host = project.host(cores=4)
    Run(host, "one", "here").sync()
    restarted = Run(host, "two", "here")
    answer = restarted.sync(forget=True)
    assert (len(answer.grants), answer.identity) == (4, "")
    assert states(project) == {"leased": 4, "lost": 4}


def test_a_restart_elsewhere_after_an_orderly_stop_goes_on_at_once(project: ServerProject) -> None:
    project.deploy("short_walk", count=8)
    host = project.host(cores=4)
    Run(host, "one").sync(ending=True)
    assert len(Run(host, "two").sync().grants) == 4


def test_a_restart_elsewhere_after_a_power_cut_goes_on_after_a_while(
    project: ServerProject,
) -> None:
    project.deploy("short_walk", count=8)
    host = project.host(cores=4)
    first = Run(host, "one")
    first.sync()
    second = Run(first.host, "two")
    assert second.sync().cancelled == []
    assert len(second.host.held) == 4
    later(project, SILENT_SECONDS)
    answer = second.sync()
    assert (answer.cancelled, answer.identity) == ([], "")
    assert states(project) == {"leased": 4}


def test_results_of_an_original_that_was_away_too_long_still_count(project: ServerProject) -> None:
    project.deploy("short_walk", count=4)
    host = project.host(cores=4)
    away = Run(host, "away")
    away.sync()
    held = list(away.host.held.values())
    later(project, SILENT_SECONDS)
    copy = Run(host, "copy")
    copy.sync(cpu=2, forget=True)
    assert states(project) == {"lost": 4, "leased": 2}
    answer = away.sync([host.success(g) for g in held])
    assert answer.identity == "copied"
    assert [a.refusal for a in answer.acknowledged] == [""] * 4
    assert copy.sync(cpu=0).cancelled == []


def test_agents_of_0_1_0_say_nothing_of_their_runs_and_are_served(project: ServerProject) -> None:
    project.deploy("short_walk", count=8)
    host = project.host(cores=4)
    assert len(host.sync().grants) == 4
    assert project.value("SELECT runs FROM hosts") == []
    assert len(Run(host, "newer").sync(forget=True).grants) == 4
