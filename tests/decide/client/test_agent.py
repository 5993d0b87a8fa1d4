"""The agent's decisions: events and the commands that follow from them."""

from __future__ import annotations

import msgspec
import pytest

from axiom_client.decide import commands as c
from axiom_client.decide import events as e
from axiom_client.decide.model import CreditDay, Limits, TaskRecord
from axiom_client.decide.sync import credit_today
from axiom_client.decide.task import TRANSITIONS, ImpossibleTransition, advance
from axiom_protocol.manifest import Resources
from axiom_protocol.messages import Acknowledgement, Credit
from tests.support.world import SHA, WALL, World, facts, grant, of


def test_first_request_follows_the_facts_at_once_and_warms_up() -> None:
    world = World()
    [sync] = world.saying(c.Sync)
    assert sync.plan.host is not None
    assert sync.plan.capacity.cpu_slots_free == 2
    assert sync.plan.capacity.buffer_seconds == 300.0
    assert world.saying(c.Prewarm)


def test_decisions_are_journalled_before_they_are_carried_out() -> None:
    world = World()
    for commands in (world.answer(grant(1)), world.fetched(), world.ended(1)):
        kinds = [isinstance(command, c.Persistent) for command in commands]
        assert kinds == sorted(kinds, reverse=True)


def test_grant_is_journalled_then_fetched_then_started() -> None:
    world = World()
    commands = world.answer(grant(1))
    assert [s.record.grant.task_id for s in of(commands, c.SaveTask)] == [1]
    assert of(commands, c.FetchBundle)
    assert not of(commands, c.StartTask)
    [start] = of(world.fetched(), c.StartTask)
    assert (start.task_id, start.spec.seed, start.spec.parameters) == (1, 1, {"steps": 10})


def test_next_task_starts_in_the_step_in_which_one_ends() -> None:
    world = World().working(3)
    assert world.phases() == {1: "running", 2: "running", 3: "queued"}
    commands = world.ended(1)
    assert [s.task_id for s in of(commands, c.StartTask)] == [3]
    assert [s.report.task_id for s in of(commands, c.SaveReport)] == [1]


def test_reports_that_end_together_share_a_request() -> None:
    world = World().working(6)
    world.commands.clear()
    world.ended(1)
    world.now += 0.3
    world.ended(2)
    assert not world.saying(c.Sync)
    world.wait(1)
    [sync] = world.saying(c.Sync)
    assert sync.plan.report_ids == [1, 2]


def test_last_report_goes_at_once_and_asks_for_more() -> None:
    world = World().working(1)
    [sync] = of(world.ended(1), c.Sync)
    assert sync.plan.report_ids == [1]
    assert sync.plan.capacity.cpu_slots_free == 2


def test_report_is_forgotten_only_when_acknowledged() -> None:
    world = World().working(1)
    world.ended(1)
    commands = world.answer(acknowledged=[])
    assert not of(commands, c.ForgetTask)
    assert world.phases() == {1: "ended"}
    world.wait(40)
    [again] = [s for s in world.saying(c.Sync) if s.plan.report_ids == [1]][1:]
    assert again.plan.in_hand == []
    commands = world.answer(acknowledged=[Acknowledgement(task_id=1, refusal="too late")])
    assert [f.task_id for f in of(commands, c.ForgetTask)] == [1]
    assert world.phases() == {}


def test_after_a_lost_answer_the_same_request_is_sent_again() -> None:
    world = World()
    [first] = world.saying(c.Sync)
    world.do(e.SyncFailed(now=world.now, problem="away", jitter=0.5))
    [second] = of(world.wait(10), c.Sync)
    assert second.plan == first.plan


def test_after_a_refused_request_a_new_one_is_made() -> None:
    world = World()
    [first] = world.saying(c.Sync)
    world.do(e.SyncFailed(now=world.now, problem="bad", again=False, jitter=0.5))
    [second] = of(world.wait(10), c.Sync)
    assert second.plan.request_id != first.plan.request_id


def test_refused_host_ends_the_agent() -> None:
    world = World()
    [leave] = of(
        world.do(e.SyncFailed(now=world.now, problem="unknown", fatal=True, jitter=0.5)), c.Exit
    )
    assert leave.fault == "refused"


def test_retries_slow_down_to_minutes() -> None:
    world = World()
    gaps = []
    for _ in range(14):
        before = world.now
        world.do(e.SyncFailed(now=world.now, problem="away", jitter=0.5))
        while world.state.sync.in_flight is None:
            world.wait(world.state.wake_at - world.now)
        gaps.append(world.now - before)
    assert gaps[0] == pytest.approx(2.0)
    assert gaps == sorted(gaps)
    assert gaps[-1] == pytest.approx(300.0)


def test_a_requested_sync_happens_at_once() -> None:
    world = World()
    for _ in range(8):
        world.do(e.SyncFailed(now=world.now, problem="away", jitter=0.5))
        world.wait(world.state.wake_at - world.now)
    world.do(e.SyncFailed(now=world.now, problem="away", jitter=0.5))
    assert of(world.do(e.SyncRequested(now=world.now)), c.Sync)


def test_a_server_without_work_is_asked_again_at_the_time_it_names() -> None:
    world = World()
    world.answer(next_sync_seconds=60.0, no_work_reason="nothing waits")
    world.commands.clear()
    world.wait(59)
    assert not world.saying(c.Sync)
    world.wait(2)
    assert len(world.saying(c.Sync)) == 1


def test_offline_work_goes_on_and_reports_are_kept() -> None:
    world = World().working(4)
    for _ in range(4):
        if world.state.sync.in_flight is not None:
            world.do(e.SyncFailed(now=world.now, problem="away", jitter=0.1))
        running = [i for i, phase in world.phases().items() if phase == "running"]
        world.ended(running[0])
        world.wait(400)
    assert set(world.phases().values()) == {"ended"}


def test_task_past_its_lease_is_still_finished_and_reported() -> None:
    world = World().working(1)
    for _ in range(100):
        world.wait(72)
        world.hear_nothing()
    assert world.phases() == {1: "running"}
    assert of(world.ended(1), c.SaveReport)


def test_the_server_can_cancel_a_task_in_any_phase() -> None:
    world = World().working(3)
    world.do(e.SyncRequested(now=world.now))
    commands = world.answer(cancelled=[1, 3, 99])
    assert [s.task_id for s in of(commands, c.StopTask)] == [1]
    assert [(s.report.task_id, s.report.outcome) for s in of(commands, c.SaveReport)] == [
        (3, "cancelled")
    ]
    commands = world.ended(1, "cancelled")
    assert [s.report.outcome for s in of(commands, c.SaveReport)] == ["cancelled"]


def test_lost_process_is_run_again_twice_then_reported() -> None:
    world = World().working(1)
    for attempt in (1, 2):
        assert not of(world.ended(1, "lost", elapsed_seconds=1.0), c.SaveReport)
        assert world.state.tasks[1].record.attempts == attempt
        world.wait(60)
        assert world.phases() == {1: "running"}
        if world.state.sync.in_flight is not None:
            world.answer()
    [save] = of(world.ended(1, "lost", elapsed_seconds=1.0), c.SaveReport)
    assert save.report.attempts == 3
    assert save.report.elapsed_seconds == pytest.approx(3.0)


def test_lost_process_has_its_script_verified_before_it_runs_again() -> None:
    world = World().working(1)
    [fetch] = of(world.ended(1, "lost"), c.FetchBundle)
    assert fetch.accepted
    world.fetched()
    world.wait(60)
    assert world.phases() == {1: "running"}


def test_cancelled_task_whose_process_is_lost_does_not_run_again() -> None:
    world = World().working(1)
    world.do(e.AbortRequested(now=world.now, task_id=1))
    assert of(world.ended(1, "lost"), c.SaveReport)
    assert world.phases() == {1: "ended"}


def test_failed_task_is_not_repeated_here() -> None:
    world = World().working(1)
    [save] = of(world.ended(1, "failed", message="boom"), c.SaveReport)
    assert (save.report.outcome, save.report.message) == ("failed", "boom")


def test_pause_suspends_and_gives_its_reason_then_ends_by_itself() -> None:
    world = World().working(3)
    commands = world.do(e.PauseRequested(now=world.now, for_seconds=100, reason="paused by you"))
    assert [p.task_id for p in of(commands, c.PauseTask)] == [1, 2]
    assert of(commands, c.SaveValue)[0].key == "pause"
    assert not world.saying(c.StopTask)
    commands = world.wait(101)
    assert [r.task_id for r in of(commands, c.ResumeTask)] == [1, 2]


def test_pause_survives_a_restart() -> None:
    world = World()
    world.do(e.PauseRequested(now=world.now, reason="paused by you"))
    kept = world.state.pause
    record = TaskRecord(grant=grant(1), order=0, lease_until_wall=WALL, accepted=True, attempts=1)
    again = World(pause=kept, tasks=[record])
    again.fetched()
    assert again.phases() == {1: "queued"}
    again.do(e.ResumeRequested(now=again.now))
    assert again.phases() == {1: "running"}


def test_a_drain_finishes_running_tasks_gives_back_the_others_and_takes_none() -> None:
    world = World().working(4)
    commands = world.do(e.DrainRequested(now=world.now, reason="moving house", then="exit"))
    assert [s.report.task_id for s in of(commands, c.SaveReport)] == [3, 4]
    world.wait(1)
    plan = world.state.sync.in_flight
    assert plan is not None
    assert plan.draining == "moving house"
    assert (plan.capacity.cpu_slots, plan.capacity.buffer_seconds) == (0, 0)
    world.answer(grant(9))  # granted by a server that had not heard yet
    assert world.phases()[9] == "ended"
    world.ended(1)
    world.ended(2)
    world.wait(2)
    while world.state.sync.in_flight is not None:
        world.answer()
        world.wait(2)
    assert world.saying(c.Exit)


def test_a_stop_keeps_started_tasks_gives_back_the_others_and_reports_it() -> None:
    world = World().working(4)
    commands = world.do(e.StopRequested(now=world.now, reason="SIGTERM"))
    assert [s.task_id for s in of(commands, c.StopTask)] == [1, 2]
    assert [s.report.task_id for s in of(commands, c.SaveReport)] == [3, 4]
    world.ended(1, "cancelled")
    assert not world.saying(c.Exit)
    commands = world.ended(2, "success")  # it finished in the meantime
    assert [s.report.outcome for s in of(commands, c.SaveReport)] == ["success"]
    world.wait(1)
    plan = world.state.sync.in_flight
    assert plan is not None
    assert plan.report_ids == [2, 3, 4]
    assert [task.task_id for task in plan.in_hand] == [1]
    assert of(world.answer(), c.Exit)
    assert world.phases() == {1: "queued"}


def test_a_second_signal_stops_at_once() -> None:
    world = World().working(2)
    world.do(e.StopRequested(now=world.now, reason="SIGTERM"))
    assert not world.saying(c.Exit)
    assert of(world.do(e.StopRequested(now=world.now, reason="SIGTERM", hurry=True)), c.Exit)


def test_stop_gives_up_on_a_server_that_is_away() -> None:
    world = World().working(4)
    world.do(e.StopRequested(now=world.now, reason="SIGTERM"))
    world.ended(1, "cancelled")
    world.ended(2, "cancelled")
    world.wait(1)
    commands = world.do(e.SyncFailed(now=world.now, problem="away", jitter=0.5))
    assert of(commands, c.Exit)


def test_until_idle_ends_when_all_is_acknowledged() -> None:
    world = World(until_idle=True).working(1)
    world.ended(1)
    assert not world.saying(c.Exit)
    assert of(world.answer(), c.Exit)


def test_until_idle_waits_until_work_for_gpus_was_asked_for() -> None:
    world = World(facts(gpus=0), until_idle=True, gpus_known=False)
    assert not of(world.answer(), c.Exit)
    world.do(e.FactsProbed(now=world.now, facts=facts(gpus=1)))
    world.wait(1)
    assert world.saying(c.Sync)[-1].plan.capacity.gpu_slots_free == 1
    assert not world.saying(c.Exit)
    assert of(world.answer(), c.Exit)


def test_until_idle_ends_where_there_is_no_gpu() -> None:
    world = World(facts(gpus=0), until_idle=True, gpus_known=False)
    world.answer()
    assert of(world.do(e.FactsProbed(now=world.now, facts=facts(gpus=0))), c.Exit)


def test_a_run_of_limited_length_stops_with_checkpoints() -> None:
    world = World(seconds=30.0).working(1)
    world.wait(30)
    assert [s.task_id for s in world.saying(c.StopTask)] == [1]
    assert of(world.ended(1, "cancelled"), c.Exit)


def test_refused_bundle_fails_its_tasks_only() -> None:
    world = World()
    world.answer(grant(1), grant(2, sha256="b" * 64))
    world.do(e.BundleRefused(now=world.now, sha256="b" * 64, problem="wrong software: x"))
    world.fetched()
    assert world.phases() == {1: "running", 2: "ended"}
    world.wait(700)


def test_bundle_is_verified_anew_after_an_hour_and_a_withdrawn_one_runs_no_more() -> None:
    """A compromised server grants an old version that this host once fetched."""
    world = World(facts(cores=1)).working(1)
    world.wait(3700)
    world.answer(grant(2))
    [first, again] = world.saying(c.FetchBundle)
    assert again.sha256 == first.sha256
    assert not again.accepted
    assert world.phases() == {1: "running", 2: "granted"}
    world.do(e.BundleRefused(now=world.now, sha256=again.sha256, problem="withdrawn: x"))
    assert world.phases() == {1: "running", 2: "ended"}
    world.wait(700)
    world.answer(grant(3))
    assert len(world.saying(c.FetchBundle)) == 3


def test_bundle_under_another_s_name_is_given_back() -> None:
    world = World()
    world.answer(grant(1, experiment="another", version="9.9.9"))
    world.fetched()
    assert world.phases() == {1: "ended"}
    assert "wrong software" in world.saying(c.SaveReport)[-1].report.message


def test_bundle_that_cannot_be_fetched_is_tried_again_then_given_back() -> None:
    world = World()
    world.answer(grant(1))
    tries = 1
    while world.phases()[1] == "granted":
        world.do(e.BundleFailed(now=world.now, sha256="a" * 64, problem="away", jitter=0.5))
        if world.phases()[1] == "ended":
            break
        before = len(world.saying(c.FetchBundle))
        for _ in range(10):
            if world.state.sync.in_flight is not None:
                world.answer()
            world.wait(100)
            if len(world.saying(c.FetchBundle)) > before:
                break
        tries += 1
    assert tries == 10
    assert world.saying(c.SaveReport)[-1].report.message.startswith("given back")


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"resources": Resources(memory_bytes=60_000_000_000)}, "memory"),
        ({"resources": Resources(disk_bytes=20_000_000_000)}, "disk"),
        ({"resources": Resources(cpu_cores=3)}, "cores"),
    ],
)
def test_what_can_never_fit_is_given_back(changes: dict[str, Resources], word: str) -> None:
    world = World()
    world.answer(grant(1))
    [save] = of(world.fetched(**changes), c.SaveReport)
    assert save.report.outcome == "cancelled"
    assert word in save.report.message


def test_parameters_outside_the_signed_range_are_given_back() -> None:
    world = World()
    world.answer(grant(1, parameters={"steps": 1000}))
    [save] = of(world.fetched(), c.SaveReport)
    assert "steps" in save.report.message


def test_gpu_task_gets_a_gpu_of_its_own() -> None:
    world = World(facts(cores=1, gpus=2))
    world.answer(*[grant(i, device="gpu") for i in (1, 2, 3)], grant(4))
    starts = of(world.fetched(), c.StartTask)
    assert [(s.task_id, [gpu.uuid for gpu in s.gpus]) for s in starts] == [
        (1, ["GPU-0"]),
        (2, ["GPU-1"]),
        (4, []),
    ]


def test_memory_is_never_promised_twice() -> None:
    world = World(facts(cores=8), limits=Limits(memory_share=0.5))
    world.answer(*[grant(i) for i in range(1, 9)])
    world.fetched(resources=Resources(memory_bytes=10_000_000_000))
    assert list(world.phases().values()).count("running") == 3  # of the 32 GB allowed


def test_fewer_cores_pause_the_latest_and_more_resume_them() -> None:
    world = World(facts(cores=4)).working(4)
    commands = world.do(e.ConfigChanged(now=world.now, limits=Limits(cpu_share=0.5)))
    assert [p.task_id for p in of(commands, c.PauseTask)] == [3, 4]
    commands = world.do(e.ConfigChanged(now=world.now, limits=Limits()))
    assert [r.task_id for r in of(commands, c.ResumeTask)] == [3, 4]


def test_zygotes_are_stopped_when_no_task_runs_for_a_while() -> None:
    world = World()
    world.answer()
    world.wait(119)
    assert not world.saying(c.ReleaseIdle)
    world.wait(2)
    assert len(world.saying(c.ReleaseIdle)) == 1


def test_a_restart_repeats_running_tasks_and_requests_their_accepted_bundles() -> None:
    record = TaskRecord(grant=grant(1), order=5, lease_until_wall=WALL, accepted=True, attempts=1)
    world = World(tasks=[record])
    [fetch] = world.saying(c.FetchBundle)
    assert fetch.accepted
    [sync] = world.saying(c.Sync)
    assert [task.task_id for task in sync.plan.in_hand] == [1]
    [start] = of(world.fetched(), c.StartTask)
    assert start.task_id == 1
    [save] = of(world.ended(1), c.SaveReport)
    assert save.report.attempts == 2


def test_restart_delivers_waiting_reports_and_the_unanswered_request_first() -> None:
    world = World().working(1)
    world.ended(1)
    unanswered = world.state.sync.in_flight
    assert unanswered is not None
    record = world.state.tasks[1].record
    waiting = e.WaitingReport(task_id=1, outcome="success", size_bytes=10)
    again = World(tasks=[record], reports=[waiting], unanswered=unanswered)
    [sync] = again.saying(c.Sync)
    assert sync.plan == unanswered
    assert of(again.answer(), c.ForgetTask)


def test_repeated_grant_changes_nothing() -> None:
    world = World().working(1)
    world.do(e.SyncRequested(now=world.now))
    commands = world.answer(grant(1))
    assert not of(commands, c.SaveTask)
    assert world.phases() == {1: "running"}


def test_only_listed_transitions_happen() -> None:
    world = World().working(1)
    task = world.state.tasks[1]
    for transition in ("bundle_ready", "start", "resume"):
        assert ("running", transition) not in TRANSITIONS
        with pytest.raises(ImpossibleTransition, match=f"task 1: {transition} while running"):
            advance(task, transition)  # type: ignore[arg-type]


def test_step_does_not_change_the_state_that_it_is_given() -> None:
    world = World().working(3)
    before = repr(world.state)
    kept = world.state
    world.ended(1)
    assert repr(kept) == before


def test_a_refused_bundle_is_an_error_and_a_task_that_runs_goes_on_with_it() -> None:
    world = World(facts(cores=1)).working(2)
    world.do(e.BundleRefused(now=world.now, sha256=SHA, problem="withdrawn: x"))
    assert world.phases() == {1: "running", 2: "ended"}
    known = world.state.bundles[SHA]
    assert (known.verified_at, known.attempts, known.fetching) == (None, 0, False)
    refused = [entry for entry in world.saying(c.LogLine) if "is refused" in entry.text]
    assert [entry.level for entry in refused] == ["error"]


def test_the_credit_of_a_day_begins_with_what_was_there_before_it() -> None:
    world = World()
    world.answer(credit=Credit(host_total=100.0))
    world.do(e.SyncRequested(now=world.now))
    world.wait(1)
    world.answer(credit=Credit(host_total=103.5))
    assert credit_today(world.state) == 3.5
    saved = {s.key: s.value for s in world.saying(c.SaveValue)}
    assert msgspec.convert(saved["credit"], Credit) == Credit(host_total=103.5)
    began = CreditDay(day=int(WALL // 86_400), host_total=100.0)
    assert msgspec.convert(saved["credit_day"], CreditDay) == began
    world.do(e.SyncRequested(now=world.now))
    world.wait(1)
    world.answer(credit=Credit(host_total=99.0))
    assert credit_today(world.state) == 0.0, "the server was restored from a backup"
