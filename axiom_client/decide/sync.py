"""When to speak to the server, what to say, and what its answer changes.

One request is open at a time. A request whose answer was lost is sent again unchanged: the server
then answers as it did the first time, so that no grant and no acknowledgement can get lost.
"""

from __future__ import annotations

from axiom_client.decide import commands as c
from axiom_client.decide import events as e
from axiom_client.decide.allocate import wanted
from axiom_client.decide.answer_bounds import within_bounds
from axiom_client.decide.capacity import NO_ROOM, Room
from axiom_client.decide.model import (
    NEVER,
    AgentState,
    CreditDay,
    SyncPlan,
    TaskRecord,
    TaskState,
)
from axiom_client.decide.retry import retry_sync
from axiom_client.decide.step_builder import StepBuilder
from axiom_protocol.messages import REPORTS_MAX, Capacity, Credit, InHand, SyncAnswer

COALESCE_SECONDS = 1.0  # reports of tasks that end together share a request
SPACING_SECONDS = (
    0.25  # between an answer and the next request: tasks that fail at once cannot storm
)
UNACKNOWLEDGED_SECONDS = 30.0  # before a report that an answer passed over is sent once more
REPORT_BYTES_MAX = (
    8 * 1024 * 1024
)  # results in one request, a quarter of the wire's bound on a body

_IN_HAND = {
    "granted": "queued",
    "queued": "queued",
    "running": "running",
    "paused": "paused",
    "stopping": "running",
    "ended": "ended",
}


def wanted_capacity(state: AgentState, room: Room) -> Capacity:
    """What the host would take now: nothing while it drains or stops."""
    if state.drain is not None or state.stop is not None:
        room = NO_ROOM
    return wanted(state.tasks, state.bundles, state.durations, room, state.limits.buffer_seconds)


def has_room(capacity: Capacity) -> bool:
    """Whether anything is asked for."""
    return bool(capacity.cpu_slots_free or capacity.gpu_slots_free or capacity.buffer_seconds)


def due_at(state: AgentState, capacity: Capacity) -> float:
    """When the next request should go; NEVER while one is open or there is nothing to go for."""
    sync = state.sync
    if sync.in_flight is not None or state.facts is None:
        return NEVER
    return max(_wish(state, capacity), sync.not_before)


def _wish(state: AgentState, capacity: Capacity) -> float:
    sync = state.sync
    unsent = state.reports_since + COALESCE_SECONDS
    if state.stop is not None:
        return NEVER if _any_alive(state) else state.reports_since
    wish = min(sync.next_at, unsent)
    slots_idle = capacity.cpu_slots_free > 0 or capacity.gpu_slots_free > 0
    if sync.wanted_now or (unsent < NEVER and not _any_alive(state)):
        return state.now if state.reports_since <= state.now or sync.wanted_now else wish
    if has_room(capacity) and not sync.out_of_work and (slots_idle or unsent == NEVER):
        return state.now
    return wish


def _any_alive(state: AgentState) -> bool:
    return any(t.phase in ("running", "paused", "stopping") for t in state.tasks.values())


def compose(state: AgentState, capacity: Capacity) -> SyncPlan:
    """The request as it should be now."""
    state.sync.number += 1
    reports = _next_reports(state)
    known = state.sync.facts_known_to_server
    in_hand = [
        InHand(task_id=i, state=_IN_HAND[t.phase], progress=t.progress)  # type: ignore[arg-type]
        for i, t in sorted(state.tasks.items())
        if i not in reports
    ]
    return SyncPlan(
        request_id=f"{state.instance}-{state.sync.number:06d}",
        capacity=capacity,
        in_hand=in_hand,
        report_ids=sorted(reports),
        host=state.facts if state.facts != known else None,
        draining=state.drain.reason if state.drain else "",
    )


def _next_reports(state: AgentState) -> set[int]:
    """The oldest reports that fit into one request; one at least, whatever its size."""
    chosen: set[int] = set()
    room = REPORT_BYTES_MAX
    ended = (t for t in state.tasks.values() if t.phase == "ended")
    for task in sorted(ended, key=lambda t: (t.record.order, t.task_id)):
        room -= task.report_bytes
        if chosen and (room < 0 or len(chosen) == REPORTS_MAX):
            break
        chosen.add(task.task_id)
    return chosen


def answered(builder: StepBuilder, answer: SyncAnswer) -> list[int]:
    """Take in an answer; returns the tasks in hand that the server cancels."""
    state, sync = builder.state, builder.state.sync
    plan = sync.in_flight
    if plan is None or answer.request_id != plan.request_id:
        return []
    offered = len(answer.grants)
    answer = within_bounds(answer, state.tasks)
    if sync.failures:
        builder.log("the server answers again")
    if refused := offered - len(answer.grants):
        builder.log(f"{refused} of {offered} granted tasks are beyond the bounds", "warning")
    sync.in_flight = sync.unanswered = None
    builder.do(c.SaveRequest(plan=None))
    sync.failures, sync.problem = 0, ""
    sync.wanted_now = False
    sync.answered_at = state.now
    sync.not_before = state.now + SPACING_SECONDS
    sync.next_at = state.now + max(answer.next_sync_seconds, SPACING_SECONDS)
    sync.no_work_reason = answer.no_work_reason
    sync.notices = list(answer.notices)
    if plan.host is not None:
        sync.facts_known_to_server = plan.host
    if answer.credit is not None and answer.credit != sync.credit:
        _credit(builder, answer.credit)
    _forget_acknowledged(builder, plan, answer)
    _accept_grants(builder, plan, answer)
    return sorted(set(answer.cancelled))


def _credit(builder: StepBuilder, credit: Credit) -> None:
    """Take in what the ledger holds, and what it held when this day began."""
    state = builder.state
    day = int(state.local // 86_400)
    if state.credit_day is None or state.credit_day.day != day:
        before = state.sync.credit or credit
        state.credit_day = CreditDay(day=day, host_total=before.host_total)
        builder.keep_value("credit_day", state.credit_day)
    state.sync.credit = credit
    builder.keep_value("credit", credit)


def credit_today(state: AgentState) -> float:
    """What this host was credited since midnight, as far as the server has told."""
    day, credit = state.credit_day, state.sync.credit
    if day is None or credit is None or day.day != int(state.local // 86_400):
        return 0.0
    return max(0.0, credit.host_total - day.host_total)


def _forget_acknowledged(builder: StepBuilder, plan: SyncPlan, answer: SyncAnswer) -> None:
    state = builder.state
    for ack in sorted(answer.acknowledged, key=lambda a: a.task_id):
        task = state.tasks.get(ack.task_id)
        if task is None or task.phase != "ended" or ack.task_id not in plan.report_ids:
            continue
        if ack.refusal:
            builder.log(f"task {ack.task_id} of {task.ref} earns nothing: {ack.refusal}", "warning")
        del state.tasks[ack.task_id]
        builder.do(c.ForgetTask(task_id=ack.task_id))
    ended = [t.task_id for t in state.tasks.values() if t.phase == "ended"]
    passed_over = set(plan.report_ids)
    if not ended:
        state.reports_since = NEVER
    elif passed_over.issuperset(ended):
        state.reports_since = state.now + UNACKNOWLEDGED_SECONDS
    else:
        state.reports_since = state.now


def _accept_grants(builder: StepBuilder, plan: SyncPlan, answer: SyncAnswer) -> None:
    state = builder.state
    for grant in answer.grants:
        if grant.task_id in state.tasks:
            continue
        record = TaskRecord(
            grant=grant, order=state.next_order, lease_until_wall=state.wall + grant.lease_seconds
        )
        state.next_order += 1
        builder.save(record)
        builder.put(TaskState(record=record))
    if answer.grants:
        state.sync.out_of_work = False
        builder.log(f"{len(answer.grants)} tasks granted")
    elif has_room(plan.capacity):
        state.sync.out_of_work = True


def failed(builder: StepBuilder, event: e.SyncFailed) -> None:
    """Take in that no answer came, and decide when to try again."""
    state, sync = builder.state, builder.state.sync
    if sync.in_flight is None:
        return
    sync.in_flight = None
    if not event.again:
        sync.unanswered = None
        builder.do(c.SaveRequest(plan=None))
    sync.failures += 1
    decision = retry_sync(event.now, sync.failures, event.jitter, event.retry_after_seconds)
    sync.not_before = decision.at
    sync.next_at = decision.at
    if event.problem != sync.problem:
        builder.log(f"no contact: {event.problem}; working on, trying again", "warning")
    sync.problem = event.problem
    if state.stop is not None:
        sync.not_before = NEVER
