"""When to send the server a request, what it contains, and how its answer changes the state.

One request is open at a time. A request whose answer was lost is sent again unchanged. The server
then answers as it did the first time, so that no grant and no acknowledgement can get lost.
"""

from __future__ import annotations

from axiom_client.decide import commands as c
from axiom_client.decide import events as e
from axiom_client.decide.account import origin_of, update_limits
from axiom_client.decide.allocate import wanted
from axiom_client.decide.answer_bounds import within_bounds
from axiom_client.decide.capacity import NO_ROOM, Room
from axiom_client.decide.drain import drain_reason
from axiom_client.decide.idle import host_status
from axiom_client.decide.kept_results import (
    drop_results,
    enter_epoch,
    is_worth_keeping,
    keep_result,
)
from axiom_client.decide.model import (
    NEVER,
    AgentState,
    CreditDay,
    SyncPlan,
    TaskRecord,
    TaskState,
)
from axiom_client.decide.retry import retry_sync
from axiom_client.decide.schedule import day_number
from axiom_client.decide.step_builder import StepBuilder
from axiom_client.decide.task import has_running
from axiom_protocol.messages import (
    IDENTITY_COPIED,
    IDENTITY_UNCLEAR,
    REPORTS_MAX,
    AccountSettings,
    Capacity,
    Credit,
    InHand,
    SyncAnswer,
)
from axiom_protocol.text import counted

COALESCE_SECONDS = 1.0  # reports of tasks that end together share a request
# Between an answer and the next request: tasks that fail at once cause no flood of requests.
SPACING_SECONDS = 0.25
UNACKNOWLEDGED_SECONDS = 30.0  # until a report that an answer did not acknowledge is sent again
# Of results in one request: a quarter of what the protocol allows for a body.
REPORT_BYTES_MAX = 8 * 1024 * 1024

_IN_HAND = {
    "granted": "queued",
    "queued": "queued",
    "running": "running",
    "paused": "paused",
    "stopping": "running",
    "ended": "ended",
}


def wanted_capacity(state: AgentState, room: Room) -> Capacity:
    """How much work to ask for: none while the agent drains or stops."""
    if drain_reason(state) or state.stop is not None:
        room = NO_ROOM
    return wanted(state.tasks, state.bundles, state.durations, room, state.limits.buffer_seconds)


def has_room(capacity: Capacity) -> bool:
    """Whether ``capacity`` asks for any work."""
    return bool(capacity.cpu_slots_free or capacity.gpu_slots_free or capacity.buffer_seconds)


def due_at(state: AgentState, capacity: Capacity) -> float:
    """When the next request is due; NEVER while one is open or the host is not yet probed."""
    sync = state.sync
    if sync.in_flight is not None or state.facts is None:
        return NEVER
    return max(_wanted_at(state, capacity), sync.not_before)


def _wanted_at(state: AgentState, capacity: Capacity) -> float:
    """When a request is wanted, before the least spacing between requests is considered."""
    sync = state.sync
    if state.stop is not None:
        return NEVER if has_running(state) else state.reports_since
    if sync.wanted_now or _should_report_now(state) or _should_ask_now(state, capacity):
        return state.now
    return min(sync.next_at, state.reports_since + COALESCE_SECONDS)


def _should_report_now(state: AgentState) -> bool:
    """Whether a report waits and no task runs that could end and share its request."""
    return state.reports_since <= state.now and not has_running(state)


def _should_ask_now(state: AgentState, capacity: Capacity) -> bool:
    """Whether to ask for work. Only a low buffer can wait for a report that is soon to be sent."""
    if state.sync.out_of_work or not has_room(capacity):
        return False
    no_report_waits = state.reports_since == NEVER
    return bool(capacity.cpu_slots_free or capacity.gpu_slots_free) or no_report_waits


def compose(state: AgentState, capacity: Capacity) -> SyncPlan:
    """The next request, from the present state."""
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
        draining=drain_reason(state),
        ending=state.stop is not None,
        epoch=state.epoch,
        status=host_status(state),
    )


def _next_reports(state: AgentState) -> set[int]:
    """The oldest reports that fit into one request, but at least one."""
    chosen: set[int] = set()
    room = REPORT_BYTES_MAX
    ended = (t for t in state.tasks.values() if t.phase == "ended")
    for task in sorted(ended, key=lambda t: (t.record.order, t.task_id)):
        room -= task.report_bytes
        if chosen and (room < 0 or len(chosen) == REPORTS_MAX):
            break
        chosen.add(task.task_id)
    return chosen


def handle_answer(builder: StepBuilder, answer: SyncAnswer) -> list[int]:
    """Change the state as the answer says; returns the tasks that the server cancels."""
    state, sync = builder.state, builder.state.sync
    plan = sync.in_flight
    if plan is None or answer.request_id != plan.request_id:
        return []
    offered = len(answer.grants)
    answer = within_bounds(answer, state.tasks)
    if sync.failures:
        builder.log("the server answers again")
    if refused := offered - len(answer.grants):
        builder.log(
            f"{refused} of {offered} granted tasks are refused: more than an agent keeps", "warning"
        )
    sync.in_flight = sync.unanswered = None
    builder.do(c.SaveRequest(plan=None))
    sync.failures, sync.problem = 0, ""
    sync.wanted_now = False
    sync.answered_at = state.now
    sync.not_before = state.now + SPACING_SECONDS
    sync.next_at = state.now + max(answer.next_sync_seconds, SPACING_SECONDS)
    if answer.identity == IDENTITY_COPIED:
        _give_up_identity(builder)
        return []
    if answer.identity == IDENTITY_UNCLEAR:
        sync.not_before = sync.next_at  # the server grants nothing before that
    sync.no_work_reason = answer.no_work_reason
    sync.notices = list(answer.notices)
    if plan.host is not None:
        sync.facts_known_to_server = plan.host
    if answer.credit is not None and answer.credit != sync.credit:
        _record_credit(builder, answer.credit)
    enter_epoch(builder, answer)
    if answer.account is not None:
        _use_account(builder, answer.account)
    _forget_acknowledged(builder, plan, answer)
    drop_results(builder, answer)
    _accept_grants(builder, plan, answer)
    return sorted(set(answer.cancelled))


def _give_up_identity(builder: StepBuilder) -> None:
    """End this run: the folder is a copy, and its tasks belong to the original's agent."""
    builder.state.exited = True
    builder.do(c.Exit(reason="this folder is a copy of another agent's", fault="copied"))


def _use_account(builder: StepBuilder, account: AccountSettings) -> None:
    """Save and apply changed account settings, and report what is in force in another request."""
    state = builder.state
    if account == state.account:
        return
    state.account = account
    builder.save_value("account", account)
    update_limits(state)
    state.measured_at = -NEVER  # the new limits may need another measurement, at once
    state.sync.wanted_now = True
    if not account.settings:
        builder.log("your account sets no limits for this host")
        return
    ignored = "" if state.control.enabled else " are ignored: account.control is false"
    builder.log(f"limits {origin_of(account, state.utc_offset_seconds)}{ignored}")


def _record_credit(builder: StepBuilder, credit: Credit) -> None:
    """Save the host's credit; at the first answer of a day also the credit before it."""
    state = builder.state
    day = day_number(state.local)
    if state.credit_day is None or state.credit_day.day != day:
        before = state.sync.credit or credit
        state.credit_day = CreditDay(day=day, host_total=before.host_total)
        builder.save_value("credit_day", state.credit_day)
    state.sync.credit = credit
    builder.save_value("credit", credit)


def credit_today(state: AgentState) -> float:
    """The credit that this host got since midnight, according to the last answer."""
    day, credit = state.credit_day, state.sync.credit
    if day is None or credit is None or day.day != day_number(state.local):
        return 0.0
    return max(0.0, credit.host_total - day.host_total)


def _forget_acknowledged(builder: StepBuilder, plan: SyncPlan, answer: SyncAnswer) -> None:
    state = builder.state
    for ack in sorted(answer.acknowledged, key=lambda a: a.task_id):
        task = state.tasks.get(ack.task_id)
        if task is None or task.phase != "ended" or ack.task_id not in plan.report_ids:
            continue
        if ack.refusal:
            builder.log(
                f"task {ack.task_id} of {task.ref} gets no credit: {ack.refusal}", "warning"
            )
        del state.tasks[ack.task_id]
        if not ack.refusal and is_worth_keeping(task, answer):
            keep_result(builder, task, answer)
        else:
            builder.do(c.ForgetTask(task_id=ack.task_id))
    ended = [t.task_id for t in state.tasks.values() if t.phase == "ended"]
    sent = set(plan.report_ids)
    if not ended:
        state.reports_since = NEVER
    elif sent.issuperset(ended):  # none but reports that this answer did not acknowledge
        state.reports_since = state.now + UNACKNOWLEDGED_SECONDS
    else:
        state.reports_since = state.now


def _accept_grants(builder: StepBuilder, plan: SyncPlan, answer: SyncAnswer) -> None:
    state = builder.state
    for grant in answer.grants:
        if grant.task_id in state.tasks:
            continue
        record = TaskRecord(
            grant=grant, order=state.next_order, epoch=answer.epoch,
            lease_until_wall=state.wall + grant.lease_seconds,
        )  # fmt: skip
        state.next_order += 1
        builder.save(record)
        builder.put(TaskState(record=record))
    if answer.grants:
        state.sync.out_of_work = False
        builder.log(f"{counted(len(answer.grants), 'task')} granted")
    elif has_room(plan.capacity) and answer.identity != IDENTITY_UNCLEAR:
        state.sync.out_of_work = True


def handle_failure(builder: StepBuilder, event: e.SyncFailed) -> None:
    """Record that no answer came, and decide when to try again."""
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
        builder.log(
            f"no contact: {event.problem}; tasks go on and contact is tried again", "warning"
        )
    sync.problem = event.problem
    if state.stop is not None:
        sync.not_before = NEVER
