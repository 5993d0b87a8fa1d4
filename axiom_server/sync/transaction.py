"""Answer the syncs of many hosts in one transaction.

The order is: lock the hosts; store their reports; take back leases that they lost; grant work. A
request that was answered before (its ``request_id`` is the host's last) changes nothing and gets
the same answer again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TypeVar

import msgspec

from axiom_protocol.messages import (
    IDENTITY_COPIED,
    IDENTITY_UNCLEAR,
    AccountSettings,
    Credit,
    Grant,
    SyncAnswer,
    SyncRequest,
)
from axiom_protocol.text import one_line, plain_message
from axiom_server.config import Config
from axiom_server.decide import retry
from axiom_server.decide.agent_runs import Caller, RunDecision, decide_run, request_number
from axiom_server.decide.credit import decayed
from axiom_server.decide.epoch import Epoch
from axiom_server.store import reported_tasks, standing, syncing_hosts
from axiom_server.store.database import Connection
from axiom_server.store.reported_tasks import TaskRow
from axiom_server.store.syncing_hosts import HostRow, HostUpdate
from axiom_server.sync.catalogue import Catalogue
from axiom_server.sync.grants import grant_work, to_grant
from axiom_server.sync.recovery import recover_tasks
from axiom_server.sync.reports import HostSync, SyncChanges, evaluate_sync

T = TypeVar("T")

TASK_ID_MAX = 2**63 - 1  # PostgreSQL's bigint
#: A run has ended when it sent nothing for this many sync periods and seconds: a single request
#: may fail.
SILENT_SYNCS, SILENT_MARGIN_SECONDS = 2, 30.0

UNCLEAR_REASON = "another agent with this host's identity was here a moment ago; work comes soon"
COPIED_REASON = "another agent uses this host's identity: join as a new host"


class TokenUnknown(Exception):
    """No host has this token."""


@dataclass(frozen=True, kw_only=True)
class SyncCall:
    """A sync to be answered. ``token``: the sha256 of the host's token."""

    token: bytes
    request: SyncRequest


@dataclass(frozen=True, kw_only=True)
class SyncReplies:
    """Answers by token. ``locked``: hosts that another transaction has locked.

    A token that is in neither belongs to no host.
    """

    answers: dict[bytes, SyncAnswer]
    locked: Collection[bytes] = ()


async def answer_sync(
    connection: Connection, catalogue: Catalogue, config: Config, token: bytes, request: SyncRequest
) -> SyncAnswer:
    """Answer one sync inside the caller's transaction. Raises TokenUnknown."""
    replies = await answer_syncs(
        connection, catalogue, config, [SyncCall(token=token, request=request)]
    )
    if token not in replies.answers:
        raise TokenUnknown
    return replies.answers[token]


async def answer_syncs(
    connection: Connection, catalogue: Catalogue, config: Config, calls: Sequence[SyncCall], *,
    wait: bool = True,
) -> SyncReplies:  # fmt: skip
    """Answer syncs of different hosts inside the caller's transaction.

    Without ``wait``, hosts that another transaction has locked are not answered, so that they do
    not delay the others.
    """
    tokens = [call.token for call in calls]
    hosts, leased = await syncing_hosts.lock_hosts(connection, tokens, wait)
    found = {host.token for host in hosts}
    missing = [token for token in tokens if token not in found]
    locked = (
        await syncing_hosts.existing_tokens(connection, missing) if missing and not wait else ()
    )
    if not hosts:
        return SyncReplies(answers={}, locked=locked)
    now = max(host.now for host in hosts)
    syncs = await _load_syncs(connection, catalogue, config, calls, hosts, leased, now)
    evaluated = [
        (sync, evaluate_sync(catalogue, config.replication, config.standing, sync))
        for sync in syncs
    ]
    await _store_changes(connection, config, [changes for _, changes in evaluated], now)
    if counts := _count_returned(evaluated):
        await syncing_hosts.update_returned(connection, counts)
    new = [(s, c) for s, c in evaluated if s.is_new]
    granted = await grant_work(connection, catalogue, config, new, now)
    answers, updates = {}, []
    for sync, changes in evaluated:
        repeated = _repeated_grants(catalogue, sync, changes), ""
        grants, reason = granted.get(sync.host.host_id) or repeated
        updates.append(_host_update(sync, changes, grants))
        answer = _make_answer(config, sync, changes, grants, reason)
        answers[sync.host.token] = _with_epoch(answer, catalogue.epoch, now)
    await syncing_hosts.update_hosts(connection, updates, now)
    return SyncReplies(answers=answers, locked=locked)


async def _load_syncs(
    connection: Connection, catalogue: Catalogue, config: Config, calls: Sequence[SyncCall],
    hosts: Sequence[HostRow], leased: Sequence[TaskRow], now: datetime,
) -> list[HostSync]:  # fmt: skip
    """Each host with its request and tasks; loads their versions and parameters as well."""
    requests = {call.token: call.request for call in calls}
    tasks = await _load_tasks(
        connection, {host.host_id: requests[host.token] for host in hosts}, leased
    )
    by_host = {host.host_id: requests[host.token] for host in hosts}
    refusals = await recover_tasks(
        connection, catalogue, config.standing, hosts, by_host, tasks, now
    )
    silent = SILENT_SYNCS * config.serve.sync_seconds + SILENT_MARGIN_SECONDS
    every_task = [task for of_host in tasks.values() for task in of_host.values()]
    await catalogue.load_versions(connection, {task.version_id for task in every_task})
    await catalogue.load_parameters(connection, {task.parameters_id for task in every_task})
    syncs = [
        HostSync(
            host=host._replace(now=now), request=requests[host.token], tasks=tasks[host.host_id],
            run=_decide_run(host, requests[host.token], now, silent), epoch=catalogue.epoch,
            unrecovered={number: why for (h, number), why in refusals.items() if h == host.host_id},
        )
        for host in hosts
    ]  # fmt: skip
    return [
        replace(sync, host=await _update_facts(connection, sync.host, sync.request))
        if not sync.is_suspended
        else sync
        for sync in syncs
    ]


def _decide_run(
    host: HostRow, request: SyncRequest, now: datetime, silent_seconds: float
) -> RunDecision | None:
    """Decide which run of the host's agent sent the request; None if the agent names no run."""
    if request.run is None:
        return None
    run = plain_message(request.run)
    number = request_number(request.request_id, run.run)
    caller = Caller(run=run.run, place=run.place, number=number, ending=run.ending)
    return decide_run(host.runs, caller, now.timestamp(), silent_seconds)


async def _load_tasks(
    connection: Connection, requests: Mapping[int, SyncRequest], leased: Sequence[TaskRow]
) -> dict[int, dict[int, TaskRow]]:
    """By host and task id: the tasks leased to a host, and those in its reports."""
    tasks: dict[int, dict[int, TaskRow]] = {host_id: {} for host_id in requests}
    for task in leased:
        if task.host_id in tasks:  # other tasks are of hosts that another transaction has locked
            tasks[task.host_id][task.task_id] = task
    not_leased = {
        (report.task_id, host_id)
        for host_id, request in requests.items()
        for report in request.reports
        if report.task_id not in tasks[host_id] and 0 < report.task_id <= TASK_ID_MAX
    }
    if not_leased:
        ids = sorted({task_id for task_id, _ in not_leased})
        for task in await reported_tasks.tasks_by_id(connection, list(tasks), ids):
            if (task.task_id, task.host_id) in not_leased:  # reported by the task's own host
                tasks[task.host_id][task.task_id] = task
    return tasks


async def _update_facts(connection: Connection, host: HostRow, request: SyncRequest) -> HostRow:
    """Store the facts in a request; returns the host with them."""
    facts = request.host
    if facts is None:
        return host
    await syncing_hosts.update_facts(connection, host.host_id, facts)
    return host._replace(
        cpu_cores=facts.cpu_cores, gpus=len(facts.gpus), memory_bytes=facts.memory_bytes,
        environments=list(facts.environments), gpu_cohort=facts.gpu_cohort,
    )  # fmt: skip


async def _store_changes(
    connection: Connection, config: Config, all_changes: Sequence[SyncChanges], now: datetime
) -> None:
    """Store how tasks ended, and queue the workunits of failed and lost ones again."""
    ended = _joined(changes.ended for changes in all_changes)
    lost = _joined(changes.lost for changes in all_changes)
    requeued = _joined(changes.requeued for changes in all_changes)
    requeued += _after_loss(lost)
    late = _joined(changes.late for changes in all_changes)
    to_replicate = _joined(changes.to_replicate for changes in all_changes)
    mismatches = _joined(changes.mismatches for changes in all_changes)
    await reported_tasks.end_tasks(connection, [end for _, end in ended], now)
    await reported_tasks.mark_lost(connection, [task.task_id for task in lost], now)
    await reported_tasks.requeue(connection, requeued)
    await reported_tasks.remove_from_queue(connection, [task.workunit_id for task in late])
    await reported_tasks.request_comparisons(connection, to_replicate)
    await reported_tasks.compare_late(connection, late)
    await standing.record_mismatches(connection, mismatches, config.replication.distrust)


def _joined(lists: Iterable[Sequence[T]]) -> list[T]:
    return [item for items in lists for item in items]


def _after_loss(lost: Sequence[TaskRow]) -> list[tuple[TaskRow, int]]:
    """Lost tasks whose workunits are queued again, with the number of the next attempt."""
    decisions = [(task, retry.decide_requeue_lost(task.attempt)) for task in lost]
    return [(task, decision.attempt) for task, decision in decisions if decision.requeue]


def _count_returned(
    evaluated: Sequence[tuple[HostSync, SyncChanges]],
) -> dict[int, tuple[int, int]]:
    """By user: tasks that ended with a result, and tasks that were lost or given back."""
    counts: dict[int, tuple[int, int]] = {}
    for sync, changes in evaluated:
        good = sum(end.valid is not None for _, end in changes.ended)
        user_id = sync.host.user_id
        if user_id is not None and (changes.given_back or (good and sync.host.returned)):
            before = counts.get(user_id, (0, 0))
            counts[user_id] = (before[0] + good, before[1] + changes.given_back)
    return counts


def _repeated_grants(catalogue: Catalogue, sync: HostSync, changes: SyncChanges) -> list[Grant]:
    """The grants of an answer that got lost, with the remaining seconds of their leases."""
    return [
        to_grant(catalogue, task.task_id, task, _seconds_left(sync.host.now, task.deadline_at))
        for task in changes.kept
        if task.granted_by == sync.request.request_id
    ]


def _seconds_left(now: datetime, deadline: datetime) -> float:
    return max(0.0, (deadline - now).total_seconds())


def _host_update(sync: HostSync, changes: SyncChanges, grants: Sequence[Grant]) -> HostUpdate:
    host, request, capacity = sync.host, sync.request, sync.request.capacity
    cpu, gpu = (sum(grant.device == device for grant in grants) for device in ("cpu", "gpu"))
    free_cpu = min(capacity.cpu_slots_free, host.cpu_cores)
    free_gpu = min(capacity.gpu_slots_free, host.gpus)
    return HostUpdate(
        host_id=host.host_id,
        request=host.last_request if sync.is_outdated else request.request_id,
        allowance=changes.allowance,
        failing=changes.failing,
        pace=changes.pace,
        idle_cpu=None if sync.is_suspended else max(0, free_cpu - cpu),
        idle_gpu=None if sync.is_suspended else max(0, free_gpu - gpu),
        draining=None if sync.is_suspended else one_line(request.draining),
        pending=changes.to_review,
        runs=list(host.runs) if sync.run is None else sync.run.runs,
        status=plain_message(request.status) if request.status is not None else None,
    )


def _make_answer(
    config: Config, sync: HostSync, changes: SyncChanges, grants: list[Grant], reason: str
) -> SyncAnswer:
    may_take_work = not grants and not changes.kept and not sync.request.draining
    identity, identity_reason = _identity(sync)
    return SyncAnswer(
        request_id=sync.request.request_id,
        grants=grants,
        acknowledged=changes.acknowledged,
        cancelled=changes.cancelled,
        next_sync_seconds=config.serve.idle_sync_seconds
        if may_take_work
        else config.serve.sync_seconds,
        no_work_reason=identity_reason or reason,
        identity=identity,
        account=_account(sync),
        credit=_credit(sync.host, sync.host.pending + changes.to_review),
    )


def _with_epoch(answer: SyncAnswer, epoch: Epoch | None, now: datetime) -> SyncAnswer:
    if epoch is None:
        return answer
    return msgspec.structs.replace(
        answer, epoch=epoch.epoch, answered_at=now.timestamp(),
        restored_from=epoch.surely_restored, backed_up_at=epoch.surely_backed_up,
    )  # fmt: skip


def _identity(sync: HostSync) -> tuple[str, str]:
    """The answer's ``identity`` field, and the reason why the request gets no work."""
    verdict = "accepted" if sync.run is None else sync.run.verdict
    if verdict == "waiting":
        return IDENTITY_UNCLEAR, UNCLEAR_REASON
    return (IDENTITY_COPIED, COPIED_REASON) if verdict == "copy" else ("", "")


def _account(sync: HostSync) -> AccountSettings | None:
    """The account's settings, unless the host has the newest ones or is too old to know them."""
    host, status = sync.host, sync.request.status
    if status is None or status.revision == host.account_revision:
        return None
    if host.account_answer is None:  # the host has some of before a restore, or of another number
        return AccountSettings(revision=host.account_revision)
    return msgspec.json.decode(host.account_answer, type=AccountSettings)


def _credit(host: HostRow, pending: int) -> Credit:
    average = 0.0
    if host.user_average_at is not None:
        seconds = (host.now - host.user_average_at).total_seconds()
        average = decayed(host.user_average or 0.0, seconds)
    return Credit(
        host_total=float(host.host_total),
        user_total=float(host.user_total or 0),
        user_recent_average=average,
        pending_results=pending,
    )
