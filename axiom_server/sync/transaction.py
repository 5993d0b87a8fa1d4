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
from axiom_server.store import comparisons
from axiom_server.store import sync as store
from axiom_server.store.database import Connection
from axiom_server.store.sync import HostRow, HostUpdate, TaskRow
from axiom_server.sync.catalogue import Catalogue
from axiom_server.sync.grants import grant_all, to_grant
from axiom_server.sync.reports import Intake, Visit, take_in

TASK_ID_MAX = 2**63 - 1  # PostgreSQL's bigint


class TokenUnknown(Exception):
    """No host has this token."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A sync to be answered. ``token``: the sha256 of the host's."""

    token: bytes
    request: SyncRequest


@dataclass(frozen=True, kw_only=True)
class Said:
    """Answers by token. ``held``: hosts that another transaction holds; the rest are unknown."""

    answers: dict[bytes, SyncAnswer]
    held: Collection[bytes] = ()


async def exchange(
    connection: Connection, catalogue: Catalogue, config: Config, token: bytes, request: SyncRequest
) -> SyncAnswer:
    """Answer one sync inside the caller's transaction. Raises TokenUnknown."""
    said = await exchange_all(connection, catalogue, config, [Asked(token=token, request=request)])
    if token not in said.answers:
        raise TokenUnknown
    return said.answers[token]


async def exchange_all(
    connection: Connection, catalogue: Catalogue, config: Config, asked: Sequence[Asked], *,
    wait: bool = True,
) -> Said:  # fmt: skip
    """Answer syncs of different hosts inside the caller's transaction.

    Without ``wait``, hosts that another transaction holds are left for later: one of them must not
    keep all the others waiting.
    """
    tokens = [one.token for one in asked]
    hosts, leased = await store.begin(connection, tokens, wait)
    found = {host.token for host in hosts}
    absent = [token for token in tokens if token not in found]
    held = await store.known(connection, absent) if absent and not wait else ()
    if not hosts:
        return Said(answers={}, held=held)
    now = max(host.now for host in hosts)
    visits = await _visits(connection, catalogue, asked, hosts, leased, now)
    taken = [(visit, take_in(catalogue, config.replication, visit)) for visit in visits]
    await _write(connection, config, [intake for _, intake in taken], now)
    fresh = [(v, i) for v, i in taken if v.host.last_request != v.request.request_id]
    given = await grant_all(connection, catalogue, config, fresh, now)
    answers = {}
    updates = []
    for visit, intake in taken:
        grants, reason = given.get(visit.host.host_id) or (_again(catalogue, visit, intake), "")
        updates.append(_update(visit, intake, grants))
        answers[visit.host.token] = _answer(config, visit, intake, grants, reason)
    await store.update_hosts(connection, updates, now)
    return Said(answers=answers, held=held)


async def _visits(
    connection: Connection, catalogue: Catalogue, asked: Sequence[Asked],
    hosts: Sequence[HostRow], leased: Sequence[TaskRow], now: datetime,
) -> list[Visit]:  # fmt: skip
    """Each host with its tasks; the catalogue then knows all that they name."""
    requests = {one.token: one.request for one in asked}
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
        for task in await store.named_tasks(connection, list(tasks), ids):
            if (task.task_id, task.host_id) in absent:  # its own host named it
                tasks[task.host_id][task.task_id] = task
    named = [task for of_host in tasks.values() for task in of_host.values()]
    await catalogue.know(connection, {task.version_id for task in named})
    await catalogue.know_parameters(connection, {task.parameters_id for task in named})
    return [
        Visit(
            host=await _with_facts(connection, host._replace(now=now), requests[host.token]),
            request=requests[host.token],
            tasks=tasks[host.host_id],
        )
        for host in hosts
    ]


async def _with_facts(connection: Connection, host: HostRow, request: SyncRequest) -> HostRow:
    """The host as it now is, by its own word."""
    facts = request.host
    if facts is None:
        return host
    await store.update_facts(connection, host.host_id, facts)
    return host._replace(
        cpu_cores=facts.cpu_cores, gpus=len(facts.gpus), memory_bytes=facts.memory_bytes,
        environments=list(facts.environments),
    )  # fmt: skip


async def _write(
    connection: Connection, config: Config, intakes: Sequence[Intake], now: datetime
) -> None:
    """Write what the reports say, and let failed and lost workunits wait again."""
    if ended := [end for intake in intakes for _, end in intake.ended]:
        await store.end_tasks(connection, ended, now)
    lost = [task for intake in intakes for task in intake.lost]
    if lost:
        await store.lose_tasks(connection, [task.task_id for task in lost], now)
    again = [pair for intake in intakes for pair in intake.again]
    if again := again + [(task, task.attempt) for task in lost]:
        await store.requeue(connection, again)
    if late := [workunit for intake in intakes for workunit in intake.late]:
        await store.unqueue(connection, late)
    if checked := [task for intake in intakes for task in intake.checked]:
        await store.want_comparison(connection, checked)
    if lies := [lie for intake in intakes for lie in intake.lies]:
        await comparisons.charge(connection, lies, config.replication.distrust)


def _again(catalogue: Catalogue, visit: Visit, intake: Intake) -> list[Grant]:
    """The grants of an answer that was lost, with what is left of their leases."""
    return [
        to_grant(catalogue, task.task_id, task, _until(visit.host.now, task.deadline_at))
        for task in intake.kept
        if task.granted_by == visit.request.request_id
    ]


def _until(now: datetime, deadline: datetime) -> float:
    return max(0.0, (deadline - now).total_seconds())


def _update(visit: Visit, intake: Intake, grants: Sequence[Grant]) -> HostUpdate:
    host, request, capacity = visit.host, visit.request, visit.request.capacity
    cpu, gpu = (sum(grant.device == device for grant in grants) for device in ("cpu", "gpu"))
    return HostUpdate(
        host_id=host.host_id,
        request=request.request_id,
        allowance=intake.allowance,
        failing=intake.failing,
        pace=intake.pace,
        idle_cpu=max(0, min(capacity.cpu_slots_free, host.cpu_cores) - cpu),
        idle_gpu=max(0, min(capacity.gpu_slots_free, host.gpus) - gpu),
        draining=one_line(request.draining),
        pending=len(intake.ended),
    )


def _answer(
    config: Config, visit: Visit, intake: Intake, grants: list[Grant], reason: str
) -> SyncAnswer:
    hungry = not grants and not intake.kept and not visit.request.draining
    return SyncAnswer(
        request_id=visit.request.request_id,
        grants=grants,
        acknowledged=intake.acknowledged,
        cancelled=intake.cancelled,
        next_sync_seconds=config.serve.idle_sync_seconds if hungry else config.serve.sync_seconds,
        no_work_reason=reason,
        credit=_credit(visit.host, visit.host.pending + len(intake.ended)),
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
