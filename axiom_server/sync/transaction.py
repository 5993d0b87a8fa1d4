"""Syncs: what hosts say goes in, what they are told comes out, many hosts in one transaction.

Order inside it: lock the hosts; write their reports; take back what they lost; offer them work; let
`decide/` choose; lease. A request that was answered before (its ``request_id`` is the host's last)
finds its reports written and its grants made, and gets the same answer again.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from axiom_protocol.messages import Credit, Grant, SyncAnswer, SyncRequest
from axiom_protocol.text import one_line
from axiom_server.config import Config
from axiom_server.decide.credit import decayed
from axiom_server.store import comparisons, reported_tasks, syncing_hosts
from axiom_server.store.database import Connection
from axiom_server.store.reported_tasks import TaskRow
from axiom_server.store.syncing_hosts import HostRow, HostUpdate
from axiom_server.sync.catalogue import Catalogue
from axiom_server.sync.grants import grant_work, to_grant
from axiom_server.sync.reports import HostSync, SyncChanges, evaluate_sync

TASK_ID_MAX = 2**63 - 1  # PostgreSQL's bigint


class TokenUnknown(Exception):
    """No host has this token."""


@dataclass(frozen=True, kw_only=True)
class SyncCall:
    """A sync to be answered. ``token``: the sha256 of the host's."""

    token: bytes
    request: SyncRequest


@dataclass(frozen=True, kw_only=True)
class SyncReplies:
    """Answers by token. ``held``: hosts that another transaction holds; the rest are unknown."""

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

    Without ``wait``, hosts that another transaction holds are left for later: one of them must not
    keep all the others waiting.
    """
    tokens = [call.token for call in calls]
    hosts, leased = await syncing_hosts.lock_hosts(connection, tokens, wait)
    found = {host.token for host in hosts}
    absent = [token for token in tokens if token not in found]
    locked = await syncing_hosts.existing_tokens(connection, absent) if absent and not wait else ()
    if not hosts:
        return SyncReplies(answers={}, locked=locked)
    now = max(host.now for host in hosts)
    syncs = await _load_syncs(connection, catalogue, calls, hosts, leased, now)
    evaluated = [(sync, evaluate_sync(catalogue, config.replication, sync)) for sync in syncs]
    await _write(connection, config, [changes for _, changes in evaluated], now)
    new = [(v, i) for v, i in evaluated if v.host.last_request != v.request.request_id]
    granted = await grant_work(connection, catalogue, config, new, now)
    answers = {}
    updates = []
    for sync, changes in evaluated:
        grants, reason = granted.get(sync.host.host_id) or (
            _repeated_grants(catalogue, sync, changes),
            "",
        )
        updates.append(_host_update(sync, changes, grants))
        answers[sync.host.token] = _make_answer(config, sync, changes, grants, reason)
    await syncing_hosts.update_hosts(connection, updates, now)
    return SyncReplies(answers=answers, locked=locked)


async def _load_syncs(
    connection: Connection, catalogue: Catalogue, calls: Sequence[SyncCall],
    hosts: Sequence[HostRow], leased: Sequence[TaskRow], now: datetime,
) -> list[HostSync]:  # fmt: skip
    """Each host with its tasks; the catalogue then knows all that they name."""
    requests = {call.token: call.request for call in calls}
    tasks: dict[int, dict[int, TaskRow]] = {host.host_id: {} for host in hosts}
    for task in leased:
        if task.host_id in tasks:  # not that of a host left for later
            tasks[task.host_id][task.task_id] = task
    absent = {
        (report.task_id, host.host_id)
        for host in hosts
        for report in requests[host.token].reports
        if report.task_id not in tasks[host.host_id] and 0 < report.task_id <= TASK_ID_MAX
    }
    if absent:
        ids = sorted({task_id for task_id, _ in absent})
        for task in await reported_tasks.tasks_by_id(connection, list(tasks), ids):
            if (task.task_id, task.host_id) in absent:  # its own host named it
                tasks[task.host_id][task.task_id] = task
    named = [task for of_host in tasks.values() for task in of_host.values()]
    await catalogue.load_versions(connection, {task.version_id for task in named})
    await catalogue.load_parameters(connection, {task.parameters_id for task in named})
    return [
        HostSync(
            host=await _update_facts(connection, host._replace(now=now), requests[host.token]),
            request=requests[host.token],
            tasks=tasks[host.host_id],
        )
        for host in hosts
    ]


async def _update_facts(connection: Connection, host: HostRow, request: SyncRequest) -> HostRow:
    """The host as it now is, by its own word."""
    facts = request.host
    if facts is None:
        return host
    await syncing_hosts.update_facts(connection, host.host_id, facts)
    return host._replace(
        cpu_cores=facts.cpu_cores, gpus=len(facts.gpus), memory_bytes=facts.memory_bytes,
        environments=list(facts.environments),
    )  # fmt: skip


async def _write(
    connection: Connection, config: Config, all_changes: Sequence[SyncChanges], now: datetime
) -> None:
    """Write what the reports say, and let failed and lost workunits wait again."""
    if ended := [end for changes in all_changes for _, end in changes.ended]:
        await reported_tasks.end_tasks(connection, ended, now)
    lost = [task for changes in all_changes for task in changes.lost]
    if lost:
        await reported_tasks.mark_lost(connection, [task.task_id for task in lost], now)
    again = [pair for changes in all_changes for pair in changes.requeued]
    if again := again + [(task, task.attempt) for task in lost]:
        await reported_tasks.requeue(connection, again)
    if late_workunits := [
        workunit for changes in all_changes for workunit in changes.late_workunits
    ]:
        await reported_tasks.remove_from_queue(connection, late_workunits)
    if to_replicate := [task for changes in all_changes for task in changes.to_replicate]:
        await reported_tasks.request_comparisons(connection, to_replicate)
    if mismatches := [mismatch for changes in all_changes for mismatch in changes.mismatches]:
        await comparisons.record_mismatches(connection, mismatches, config.replication.distrust)


def _repeated_grants(catalogue: Catalogue, sync: HostSync, changes: SyncChanges) -> list[Grant]:
    """The grants of an answer that was lost, with what is left of their leases."""
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
    return HostUpdate(
        host_id=host.host_id,
        request=request.request_id,
        allowance=changes.allowance,
        failing=changes.failing,
        pace=changes.pace,
        idle_cpu=max(0, min(capacity.cpu_slots_free, host.cpu_cores) - cpu),
        idle_gpu=max(0, min(capacity.gpu_slots_free, host.gpus) - gpu),
        draining=one_line(request.draining),
        pending=len(changes.ended),
    )


def _make_answer(
    config: Config, sync: HostSync, changes: SyncChanges, grants: list[Grant], reason: str
) -> SyncAnswer:
    has_no_tasks = not grants and not changes.kept and not sync.request.draining
    return SyncAnswer(
        request_id=sync.request.request_id,
        grants=grants,
        acknowledged=changes.acknowledged,
        cancelled=changes.cancelled,
        next_sync_seconds=config.serve.idle_sync_seconds
        if has_no_tasks
        else config.serve.sync_seconds,
        no_work_reason=reason,
        credit=_credit(sync.host, sync.host.pending + len(changes.ended)),
    )


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
