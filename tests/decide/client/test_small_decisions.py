"""What the agent tells people and processes: log lines, and the details of a task's start."""

from __future__ import annotations

from typing import Any

import pytest

from axiom_client.decide import commands as c
from axiom_client.decide import events as e
from axiom_client.decide.binding import GrantRefused, bind
from axiom_client.decide.capacity import room
from axiom_client.decide.idle import host_status, state_and_reason
from axiom_client.decide.model import AgentState, Incident, Limits, Load
from axiom_client.decide.place import ran_seconds
from axiom_client.decide.retry import BUNDLE_ATTEMPTS_MAX
from axiom_client.decide.warm import RELEASE_SECONDS
from axiom_protocol.manifest import Cohort, Field, Manifest
from axiom_protocol.messages import Acknowledgement, HostSettings
from tests.support.world import SHA, World, facts, grant, of


def test_a_bundle_that_comes_at_last_has_no_problem_left() -> None:
    world = World()
    world.answer(grant(1))
    world.do(e.BundleFailed(now=world.now, sha256=SHA, problem="unreachable", jitter=0.5))
    assert world.said("fetched") == [("warning", "walk@1.0.0 could not be fetched: unreachable")]
    known = world.state.bundles[SHA]
    assert (known.attempts, known.fetching) == (1, False)
    world.wait(10)
    assert world.state.bundles[SHA].fetching
    world.fetched()
    known = world.state.bundles[SHA]
    assert (known.problem, known.attempts, known.fetching) == ("", 0, False)


@pytest.mark.parametrize(
    ("limits", "reasons"),
    [
        ({}, ["", ""]),
        ({"gpu_tasks": {"": 0}}, ["kept free: gpu.tasks is 0"] * 2),
        ({"gpu_tasks": {"": 0, "1": 2}}, ["kept free: gpu.tasks is 0", ""]),
        ({"gpus_excluded": ["1"]}, ["", "kept free: gpu.exclude has 1"]),
        ({"gpus_excluded": ["gpu-0"]}, ["kept free: gpu.exclude has gpu-0", ""]),
        ({"gpus_excluded": ["10"]}, ["", ""]),
    ],
)
def test_why_a_gpu_is_kept_free(limits: dict[str, Any], reasons: list[str]) -> None:
    made = room(facts(gpus=2), Load(), Limits(**limits))
    assert [slot.reason for slot in made.slots if slot.kind == "gpu"] == reasons


def test_a_core_takes_as_many_seeds_as_the_bundle_allows_on_cores() -> None:
    world = World(facts(cores=1))
    world.answer(*[grant(i + 1) for i in range(6)])
    world.fetched(cohort=Cohort(most=64, most_on_core=3))
    [start] = world.saying(c.StartTask)
    assert start.spec.task_ids == [1, 2, 3]


def test_a_task_alone_is_in_no_cohort_and_runs_its_own_bundle() -> None:
    world = World(facts(cores=1)).working(1)
    [start] = world.saying(c.StartTask)
    assert (start.spec.sha256, start.spec.others) == (SHA, [])
    assert world.state.tasks[1].cohort == 0


def test_a_task_has_run_since_it_was_started() -> None:
    world = World(facts(cores=1))
    world.answer(grant(1))
    world.wait(5)
    world.fetched()
    world.wait(7)
    assert ran_seconds(world.state.tasks[1], world.now) == pytest.approx(7.0)


def test_a_task_that_can_never_run_here_is_given_back_and_said() -> None:
    world = World(facts(environments=["torch"]))
    world.answer(grant(1))
    world.fetched()
    why = "numpy is not installed here"
    assert world.said("given back") == [
        ("warning", f"task 1 of walk@1.0.0 is given back: {why}")
    ]  # fmt: skip


def test_the_end_of_a_failed_task_is_said_with_the_last_line_of_its_message() -> None:
    world = World(facts(cores=1)).working(1)
    world.ended(1, "failed", message="Traceback\nValueError: no\n")
    assert world.said("ended") == [
        ("warning", "task 1 of walk@1.0.0 ended: failed: ValueError: no")
    ]  # fmt: skip


def test_how_long_a_bundle_takes_is_a_moving_average() -> None:
    world = World(facts(cores=1)).working(2)
    world.ended(1, elapsed_seconds=100.0)
    world.ended(2, elapsed_seconds=200.0)
    [(_, seconds)] = world.state.durations.items()
    assert seconds == pytest.approx(130.0)
    saved = [s.value for s in world.saying(c.SaveValue) if s.key == "durations"]
    assert [list(value.values()) for value in saved] == [
        [pytest.approx(100.0)], [pytest.approx(130.0)],
    ]  # fmt: skip


def test_a_zygote_is_warmed_up_for_numpy_before_the_bundle_is_known() -> None:
    world = World().working(1)
    world.ended(1)
    world.hear_nothing()
    world.wait(RELEASE_SECONDS + 1)
    assert world.saying(c.ReleaseIdle)
    world.do(e.SyncRequested(now=world.now))
    world.wait(1)
    commands = world.answer(grant(2, sha256="b" * 64))
    assert [command.environment for command in of(commands, c.Prewarm)] == ["numpy"]


def test_a_person_who_asks_for_contact_expects_work() -> None:
    world = World()
    world.answer()
    assert world.state.sync.out_of_work
    world.do(e.SyncRequested(now=world.now))
    assert not world.state.sync.out_of_work


def test_a_result_without_credit_is_said_as_a_warning() -> None:
    world = World(facts(cores=1)).working(1)
    world.ended(1)
    world.do(e.SyncRequested(now=world.now))
    world.wait(1)
    world.answer(acknowledged=[Acknowledgement(task_id=1, refusal="this host is quarantined")])
    assert world.said("no credit") == [
        ("warning", "task 1 of walk@1.0.0 gets no credit: this host is quarantined")
    ]  # fmt: skip


def test_the_pages_show_why_a_host_is_paused_and_its_mode() -> None:
    world = World()
    world.do(e.ModeChosen(now=world.now, mode="quiet", settings=HostSettings(paused=True)))
    status = host_status(world.state)
    assert status.mode == "quiet"
    assert "quiet" in status.reason


def test_resuming_ends_every_pause_in_the_journal_too() -> None:
    world = World(facts(gpus=1))
    world.do(e.PauseRequested(now=world.now, gpu=0))
    world.do(e.PauseRequested(now=world.now))
    world.do(e.DrainRequested(now=world.now, reason="by its owner", then="stay"))
    world.do(e.ResumeRequested(now=world.now))
    last = {saved.key: saved.value for saved in world.saying(c.SaveValue)}
    assert [last[key] for key in ("pause", "gpu_pauses", "drain")] == [None, None, None]
    assert (world.state.pause, world.state.gpu_pauses, world.state.drain) == (None, {}, None)


def test_each_gpu_takes_the_number_of_tasks_that_is_set_for_it_or_for_all() -> None:
    made = room(facts(gpus=2), Load(), Limits(gpu_tasks={"": 3, "1": 2}))
    assert [slot.tasks for slot in made.slots if slot.kind == "gpu"] == [3, 2]


def test_two_seeds_on_a_core_have_twice_the_time_of_one() -> None:
    times = []
    for count in (1, 2):
        world = World(facts(cores=1))
        world.answer(*[grant(i + 1) for i in range(count)])
        world.fetched(cohort=Cohort(most=64, most_on_core=64))
        [start] = world.saying(c.StartTask)
        times.append(start.spec.limits.wall_seconds)
    assert times[1] == 2 * times[0]


def test_a_seed_is_a_number_from_0_to_2_to_the_53() -> None:
    manifest = Manifest(
        name="walk", version="1.0.0", title="Walk", question="?", expected_seconds=1,
        result={"valid": Field(kind="flag"), "configs_done": Field(kind="integer")},
    )  # fmt: skip
    for seed in (0, 2**53):
        assert bind(grant(1, seed=seed), manifest) == {}
    for seed in (-1, 2**53 + 1, True):
        with pytest.raises(GrantRefused, match=f"the seed {seed} is not in 0 to 2"):
            bind(grant(1, seed=seed), manifest)


def test_the_newest_task_is_stopped_until_later_when_memory_is_short() -> None:
    world = World(facts(cores=2), limits=Limits(memory_keep_free=1e9)).working(2)
    short = Load(memory_available_bytes=10**8)
    stops = of(world.do(e.LoadMeasured(now=world.now, load=short)), c.StopTask)
    assert [stop.task_id for stop in stops] == [2]
    assert world.phases() == {1: "running", 2: "stopping"}
    assert world.state.tasks[2].keep
    assert of(world.do(e.LoadMeasured(now=world.now, load=short)), c.StopTask) == []
    assert world.said("memory") == [
        ("warning", "task 2 of walk@1.0.0 is stopped until later: memory is short")
    ]


def test_what_must_outlive_a_restart_is_saved_by_its_name() -> None:
    """The journal knows these names: an agent that starts again asks for them."""
    world = World(incident=Incident(text="old", wall=0.0))
    world.answer(epoch="first")
    world.do(e.DrainRequested(now=world.now, reason="by its owner", then="pause"))
    world.hear_nothing()
    saved = {command.key: command.value for command in world.saying(c.SaveValue)}
    assert saved["incident"] is None
    assert saved["epoch"] == "first"
    assert saved["pause"] == {"reason": "paused: drained, by its owner", "until_wall": None}
    assert world.said("draining") == [("info", "draining: by its owner")]


def test_what_a_draining_host_tells() -> None:
    texts = []
    for then in ("stay", "exit", "pause"):
        world = World(facts(cores=1)).working(1)
        world.do(e.DrainRequested(now=world.now, reason="by its owner", then=then))
        state, reason = state_and_reason(world.state)
        assert state == "draining"
        texts.append(reason)
    assert ["then" in text for text in texts] == [False, True, True]
    assert "then the agent ends" in texts[1]
    assert "then the agent pauses" in texts[2]


def test_a_request_is_forgotten_when_it_is_answered_or_cannot_be_sent_again() -> None:
    world = World()
    sent = world.saying(c.SaveRequest)[-1]
    assert sent.plan is not None
    world.do(e.SyncFailed(now=world.now, problem="no route", jitter=0.5, again=True))
    assert world.saying(c.SaveRequest)[-1] == sent
    world.wait(100)
    world.do(e.SyncFailed(now=world.now, problem="not valid", jitter=0.5, again=False))
    assert world.saying(c.SaveRequest)[-1] == c.SaveRequest(plan=None)
    world.wait(1000)
    assert world.saying(c.SaveRequest)[-1].plan is not None
    world.answer()
    assert world.saying(c.SaveRequest)[-1] == c.SaveRequest(plan=None)


def test_the_state_of_an_agent_that_starts_and_stops() -> None:
    assert state_and_reason(AgentState()) == ("running", "starting")
    world = World()
    assert state_and_reason(world.state) == ("running", "")
    world.do(e.StopRequested(now=world.now, reason="by its owner"))
    assert state_and_reason(world.state)[0] == "stopping"


def test_a_request_that_is_sent_again_is_in_the_journal_already() -> None:
    world = World()
    world.do(e.SyncFailed(now=world.now, problem="away", jitter=0.5))
    commands = world.wait(10)
    assert of(commands, c.Sync)
    assert not of(commands, c.SaveRequest)


def test_a_zygote_starts_with_the_first_request_for_work_only() -> None:
    world = World()
    assert [command.environment for command in world.saying(c.Prewarm)] == ["numpy"]
    world.do(e.SyncFailed(now=world.now, problem="away", jitter=0.5))
    world.wait(10)
    world.answer()
    world.do(e.SyncRequested(now=world.now))
    world.wait(1)
    assert len(world.saying(c.Prewarm)) == 1
    assert not World(limits=Limits(cpu_share=0.0)).saying(c.Prewarm), "it asks for no work"


def test_a_bundle_that_was_given_up_has_all_its_tries_again_for_new_tasks() -> None:
    """A task that runs from the bundle keeps it in hand."""
    world = World(facts(cores=1)).working(1)
    world.wait(3700)
    world.answer(grant(2))
    for _ in range(BUNDLE_ATTEMPTS_MAX):
        assert world.phases()[2] == "granted"
        world.do(e.BundleFailed(now=world.now, sha256=SHA, problem="away", jitter=0.5))
        if world.state.sync.in_flight is not None:
            world.answer(acknowledged=[])
        world.now = max(world.now, world.state.bundles[SHA].retry_at)
        world.do(e.TimerFired(now=world.now))
    assert world.phases() == {1: "running", 2: "ended"}
    world.do(e.SyncRequested(now=world.now))
    world.answer(grant(3))
    assert world.saying(c.FetchBundle)
    world.do(e.BundleFailed(now=world.now, sha256=SHA, problem="away", jitter=0.5))
    assert world.phases()[3] == "granted"
