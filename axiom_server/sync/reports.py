"""Evaluate one host's sync: check its reports, find leases it lost and tasks it should stop.

This module does not use the database: `transaction` loads the rows before and stores the changes
afterwards.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from axiom_protocol.messages import Acknowledgement, Report, SyncRequest
from axiom_protocol.result import ResultRefused, gate
from axiom_protocol.text import one_line, plain
from axiom_server.decide import replicate, retry
from axiom_server.decide.agent_runs import RunDecision
from axiom_server.decide.elapsed import (
    AcceptedTime,
    Claim,
    allowance_after,
    cap_claims,
    find_mismatch,
)
from axiom_server.decide.epoch import Epoch
from axiom_server.decide.replicate import ReplicationPolicy
from axiom_server.decide.request_order import is_outdated
from axiom_server.decide.standing import StandingPolicy, believed_cores, is_young
from axiom_server.store.reported_tasks import EndedTask, TaskRow
from axiom_server.store.syncing_hosts import HostRow
from axiom_server.sync.catalogue import Catalogue

REFUSAL_LENGTH_MAX = 200  # characters of an acknowledgement's ShortText
PACE_WEIGHT = 0.2  # weight of the newest reports in a host's pace
PACE_RANGE = (0.05, 50.0)

NEVER_GRANTED = "this task was never granted to this host"
GIVEN_BACK = "this host gave the task back before it sent a result"
ENDED_BEFORE = "this host reported this task before, as {}"


@dataclass(frozen=True, kw_only=True)
class HostSync:
    """One host's sync request, with the host's row and tasks.

    tasks         tasks leased to the host and tasks in its reports, by the number that it uses
    unrecovered   reported task numbers of the previous epoch that get no task, and why
    """

    host: HostRow
    request: SyncRequest
    tasks: Mapping[int, TaskRow]
    run: RunDecision | None = None  # None: an agent of 0.1.0, which does not name its run
    epoch: Epoch | None = None
    unrecovered: Mapping[int, str] = field(default_factory=dict)

    @property
    def is_outdated(self) -> bool:
        """Whether the agent had sent a newer request before this one arrived."""
        if self.run is not None and self.run.verdict != "accepted":
            return True
        return is_outdated(self.request.request_id, self.host.last_request)

    def may_be_of_previous_epoch(self, task_id: int) -> bool:
        """Whether the agent may have a task of this id that only the previous epoch knew."""
        return (
            self.epoch is not None
            and bool(self.request.epoch)
            and task_id not in self.tasks
            and self.epoch.may_recover(task_id, self.host.now.timestamp())
        )

    @property
    def is_suspended(self) -> bool:
        """Whether the request comes from a copy of the agent, or from a run that may be one."""
        return self.run is not None and self.run.verdict in ("waiting", "copy")

    @property
    def is_new(self) -> bool:
        """Whether the request may be granted work: it was not answered before and not outdated."""
        return self.host.last_request != self.request.request_id and not self.is_outdated

    @property
    def leased(self) -> list[TaskRow]:
        """The tasks that the host should have, before its reports are counted."""
        return [task for task in self.tasks.values() if task.state == "leased"]


@dataclass(frozen=True, kw_only=True)
class SyncChanges:
    """What one sync changes.

    ended           tasks that its reports end
    requeued        tasks whose workunits are queued again, with the number of the next attempt
    late            tasks that counted as lost, whose results arrived after all
    to_replicate    tasks whose result another host is to compute too
    kept            tasks that the host continues
    lost            leased tasks that the host no longer has
    cancelled       ids of tasks that the host should stop
    mismatches      the task that claims more time than can have passed, and why
    allowance       slot-seconds that the host may still be credited for
    given_back      number of tasks that ended without a result, of versions that are still offered
    failing         failures since its last success
    pace            its elapsed seconds divided by those declared
    """

    acknowledged: list[Acknowledgement]
    ended: list[tuple[TaskRow, EndedTask]]
    requeued: list[tuple[TaskRow, int]]
    late: list[TaskRow]
    to_replicate: list[TaskRow]
    kept: list[TaskRow]
    lost: list[TaskRow]
    cancelled: list[int]
    mismatches: list[tuple[int, str]]
    allowance: float
    given_back: int
    failing: int
    pace: float

    @property
    def to_review(self) -> int:
        """How many more tasks wait for a review."""
        return sum(task.state != "reported" for task, _ in self.ended)


def evaluate_sync(
    catalogue: Catalogue, policy: ReplicationPolicy, standing: StandingPolicy, sync: HostSync
) -> SyncChanges:
    """Evaluate one sync. The catalogue must hold the versions and parameters of its tasks."""
    host = sync.host
    new_reports = _new_reports(sync)
    claims = _claims(sync, new_reports)
    accepted_time = _accepted_time(sync, claims, _believed_slots(standing, sync))
    # A host may have more slots than it is believed to have, so mismatches need its own number.
    possible = _accepted_time(sync, claims, host.cpu_cores + host.gpus)
    mismatch = find_mismatch(claims, possible)
    ended = []
    for number, report in new_reports.items():
        task = sync.tasks[number]
        elapsed = accepted_time.elapsed_seconds[task.task_id]
        ended.append((task, _check_report(catalogue, host, task, report, elapsed)))
    good = [task for task, end in ended if end.valid is not None]
    recovered = {t.task_id for number, t in sync.tasks.items() if number != t.task_id}
    young = is_young(standing, host.standing)
    to_replicate = [
        task
        for task in good
        if _needs_replica(
            catalogue, policy, host, task, always=task.task_id in recovered, young=young
        )
    ]
    ended = _mark_validated(ended, to_replicate)
    # The reports of an outdated request count, but its list of tasks in hand is no longer true.
    no_tasks: tuple[list[TaskRow], list[TaskRow], list[int]] = [], [], []
    kept, lost, cancelled = (
        no_tasks if sync.is_outdated else _reconcile(catalogue, sync, new_reports)
    )
    return SyncChanges(
        acknowledged=_acknowledge(sync, ended),
        ended=ended,
        requeued=_to_requeue(host, ended),
        late=[task for task in good if task.counts_as_lost],
        to_replicate=to_replicate,
        kept=kept,
        lost=lost,
        cancelled=cancelled,
        mismatches=[mismatch] if mismatch else [],
        allowance=accepted_time.allowance_seconds,
        given_back=_count_given_back(catalogue, ended, lost),
        failing=_count_failures(catalogue, host.failing, ended),
        pace=_pace(catalogue, host.pace, ended),
    )


def _new_reports(sync: HostSync) -> dict[int, Report]:
    """The reports that end a task: of the host's own tasks, and not reported before."""
    new_reports: dict[int, Report] = {}
    ending: set[int] = set()
    for report in sync.request.reports:
        task = sync.tasks.get(report.task_id)
        if task is not None and _may_end(sync, task, report) and task.task_id not in ending:
            ending.add(task.task_id)
            new_reports[report.task_id] = report
    return new_reports


def _may_end(sync: HostSync, task: TaskRow, report: Report) -> bool:
    """Whether a report may end this task. A copy must not end a task of another run."""
    if sync.is_suspended:
        copied = sync.run is not None and sync.run.verdict == "copy"
        return copied and task.state == "lost" and report.outcome == "success"
    found_again = task.counts_as_lost and report.outcome == "success"
    return task.state in ("leased", "lost") or found_again


def _claims(sync: HostSync, new_reports: Mapping[int, Report]) -> list[Claim]:
    return [
        Claim(
            task_id=sync.tasks[number].task_id,
            claimed_seconds=report.elapsed_seconds,
            wall_seconds=(sync.host.now - sync.tasks[number].granted_at).total_seconds(),
        )
        for number, report in sorted(new_reports.items())
    ]


def _believed_slots(policy: StandingPolicy, sync: HostSync) -> int:
    """Slots that the host may have used: its own number, limited by standing or by its leases."""
    claimed = sync.host.cpu_cores + sync.host.gpus
    believed = believed_cores(policy, sync.host.standing)
    return claimed if believed is None else min(claimed, max(believed, len(sync.leased)))


def _mark_validated(
    ended: Sequence[tuple[TaskRow, EndedTask]], to_replicate: Sequence[TaskRow]
) -> list[tuple[TaskRow, EndedTask]]:
    """Mark first results that are not replicated as validated: they count at once."""
    checked = {task.task_id for task in to_replicate}
    return [
        (task, msgspec.structs.replace(end, validated=True))
        if task.purpose == "first" and task.task_id not in checked
        else (task, end)
        for task, end in ended
    ]


def _accepted_time(sync: HostSync, claims: Sequence[Claim], slots: int) -> AcceptedTime:
    host = sync.host
    since = (host.now - (host.last_seen_at or host.now)).total_seconds()
    held = any(task.state in ("leased", "lost") for task in sync.tasks.values())
    return cap_claims(claims, allowance_after(host.allowance, slots, since, held), slots)


def _check_report(
    catalogue: Catalogue, host: HostRow, task: TaskRow, report: Report, elapsed: float
) -> EndedTask:
    """Check a report against the experiment's schema. A quarantined host's results are refused."""
    refusal, valid, encoded = "", None, b"null"
    if host.state == "quarantined":
        refusal = quarantine_notice(host)[:REFUSAL_LENGTH_MAX]
    elif report.outcome == "success":
        try:
            result = gate(catalogue.versions[task.version_id].manifest, report.result)
            valid, encoded = int(result["valid"]), msgspec.json.encode(result)
        except ResultRefused as refused:
            refusal = one_line(str(refused))[:REFUSAL_LENGTH_MAX]
    return EndedTask(
        task_id=task.task_id,
        outcome=report.outcome,
        claimed_seconds=report.elapsed_seconds,
        elapsed_seconds=elapsed,
        cpu_seconds=report.cpu_seconds,
        peak_memory_bytes=report.peak_memory_bytes,
        refusal=refusal,
        message=plain(report.message),
        valid=valid,
        digest=hashlib.sha256(encoded).hexdigest(),
        result=msgspec.Raw(encoded),
    )


def _acknowledge(
    sync: HostSync, ended: Sequence[tuple[TaskRow, EndedTask]]
) -> list[Acknowledgement]:
    just_ended = {end.task_id: end.refusal for _, end in ended}
    return [
        Acknowledgement(task_id=r.task_id, refusal=_refusal(sync, r, just_ended))
        for r in sync.request.reports
        if _is_answered(sync, r, just_ended)
    ]


def _refusal(sync: HostSync, report: Report, just_ended: Mapping[int, str]) -> str:
    task = sync.tasks.get(report.task_id)
    if task is None:
        return sync.unrecovered.get(report.task_id, NEVER_GRANTED)
    if task.task_id in just_ended:
        return just_ended[task.task_id]
    if task.refusal or report.outcome != "success" or task.outcome in (None, "lost", "success"):
        return task.refusal
    return GIVEN_BACK if task.outcome == "cancelled" else ENDED_BEFORE.format(task.outcome)


def _is_answered(sync: HostSync, report: Report, just_ended: Collection[int]) -> bool:
    """Whether to acknowledge a report now; not if the agent must describe its work first."""
    if sync.is_suspended:
        return _is_settled(sync, report, just_ended)
    return report.work is not None or not sync.may_be_of_previous_epoch(report.task_id)


def _is_settled(sync: HostSync, report: Report, just_ended: Collection[int]) -> bool:
    """Whether a report need not be sent again."""
    task = sync.tasks.get(report.task_id)
    return task is not None and (
        task.task_id in just_ended or task.state in ("reported", "reviewed")
    )


def quarantine_notice(host: HostRow) -> str:
    """The message to the owner of a quarantined host."""
    return f"this host is quarantined: {host.state_reason or 'ask the staff'}"


def _to_requeue(
    host: HostRow, ended: Sequence[tuple[TaskRow, EndedTask]]
) -> list[tuple[TaskRow, int]]:
    requeued = []
    for task, end in ended:
        if host.state == "quarantined":  # this does not count as an attempt
            decision = retry.decide_requeue("cancelled", False, task.attempt)
        else:
            decision = retry.decide_requeue(end.outcome, bool(end.refusal), task.attempt)
        if decision.requeue and task.state == "leased":
            requeued.append((task, decision.attempt))
    return requeued


def _needs_replica(
    catalogue: Catalogue,
    policy: ReplicationPolicy,
    host: HostRow,
    task: TaskRow,
    *,
    always: bool,
    young: bool,
) -> bool:
    """Whether another host should compute the task too.

    ``always``: the task was recovered, so the server cannot know that it granted it to this host.
    """
    return (
        task.purpose == "first"
        and not host.trusted
        # In a project of one account, results that pass the schema check count.
        and replicate.has_other_users(host.user_id, catalogue.known_users)
        and (
            always
            or replicate.wants_replica(policy, host.agreements, _random_fraction(), young=young)
        )
    )


def _random_fraction() -> float:
    return secrets.randbits(32) / 2**32


def _count_given_back(
    catalogue: Catalogue, ended: Sequence[tuple[TaskRow, EndedTask]], lost: Sequence[TaskRow]
) -> int:
    without_result = [*lost, *(task for task, end in ended if end.valid is None)]
    return sum(_is_offered(catalogue, task) for task in without_result)


def _is_offered(catalogue: Catalogue, task: TaskRow) -> bool:
    """Whether the task's version is. Staff stop and withdraw versions, and a host that then ends
    without a result did what it should."""
    return catalogue.versions[task.version_id].state == "active"


def _count_failures(
    catalogue: Catalogue, failing: int, ended: Sequence[tuple[TaskRow, EndedTask]]
) -> int:
    for task, end in sorted(ended, key=lambda pair: pair[0].task_id):
        offered = _is_offered(catalogue, task)
        failing = retry.count_failures(failing, end.outcome, bool(end.refusal), offered)
    return failing


def _pace(catalogue: Catalogue, pace: float, ended: Sequence[tuple[TaskRow, EndedTask]]) -> float:
    """The pace of a host's cores. On a GPU a seed may take a hundredth of the declared seconds; if
    that counted, tasks on cores of the same host would seem to take far too long."""
    good = [
        (task, end)
        for task, end in ended
        if task.device == "cpu" and end.valid is not None and end.elapsed_seconds > 0
    ]
    if not good:
        return pace
    declared = sum(catalogue.parameters[task.parameters_id].budget_seconds for task, _ in good)
    measured = sum(end.elapsed_seconds for _, end in good) / max(declared, 1e-3)
    low, high = PACE_RANGE
    return min(max(pace + PACE_WEIGHT * (measured - pace), low), high)


def _reconcile(
    catalogue: Catalogue, sync: HostSync, new_reports: Mapping[int, Report]
) -> tuple[list[TaskRow], list[TaskRow], list[int]]:
    """Compare the leases with the tasks that the host has: kept, lost, and ids to cancel.

    A leased task that the host does not have is lost, and is queued again at once. A task that it
    has without a lease (expired, experiment stopped, host quarantined) is to be cancelled.
    """
    quarantined = sync.host.state == "quarantined"
    in_hand = {task.task_id: task.state for task in sync.request.in_hand}
    reported = {sync.tasks[number].task_id for number in new_reports}
    kept: list[TaskRow] = []
    lost: list[TaskRow] = []
    for task in sync.leased:
        if task.task_id in reported:
            continue
        if task.task_id in in_hand:
            is_lost = quarantined or catalogue.versions[task.version_id].state == "stopped"
        else:
            # A task granted by this very request is not lost: its answer was, and is repeated.
            is_lost = task.granted_by != sync.request.request_id
        (lost if is_lost else kept).append(task)
    kept_ids = {task.task_id for task in kept}
    cancelled = sorted(
        t
        for t, state in in_hand.items()
        if t not in kept_ids and state != "ended" and not sync.may_be_of_previous_epoch(t)
    )
    return kept, lost, cancelled
