"""One sync: what a host says goes in, what it is told comes out, in one transaction.

Order inside it: lock the host; write its reports; take back what it lost; offer it work; let
`decide/` choose; lease. A request that was answered before (its ``request_id`` is the host's last)
finds its reports written and its grants made, and gets the same answer again.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import msgspec

from axiom_protocol.messages import (
    Acknowledgement,
    Credit,
    Grant,
    Report,
    SyncAnswer,
    SyncRequest,
)
from axiom_protocol.result import Result, ResultRefused, gate
from axiom_server.catalogue import Catalogue
from axiom_server.config import Config
from axiom_server.decide import lease, replicate, retry
from axiom_server.decide.credit import decayed
from axiom_server.decide.elapsed import Claim, allowance_after, believe
from axiom_server.store import exchange as store
from axiom_server.store.database import Connection
from axiom_server.store.exchange import CandidateRow, EndedTask, HostRow, TaskRow

REFUSAL_LENGTH = 200  # characters of an acknowledgement's ShortText
PASSES_MAX = 4  # over the pools: empty ones are found, and their share goes to the others
PACE_WEIGHT = 0.2  # of the newest reports in a host's pace
PACE_RANGE = (0.05, 50.0)

TASK_ID_MAX = 2**63 - 1  # PostgreSQL's bigint

NOT_YOURS = "this task was never granted to this host"


class TokenUnknown(Exception):
    """No host has this token."""


@dataclass(frozen=True, kw_only=True)
class _Intake:
    """What the reports changed."""

    acknowledged: list[Acknowledgement]
    ended: set[int]
    allowance: float
    failing: int
    pace: float


async def exchange(
    connection: Connection, catalogue: Catalogue, config: Config, token: bytes, request: SyncRequest
) -> SyncAnswer:
    """Answer one sync inside the caller's transaction. Raises TokenUnknown."""
    host, leased = await store.begin(connection, token)
    if host is None:
        raise TokenUnknown
    if request.host is not None:
        facts = request.host
        await store.update_facts(connection, host.host_id, facts)
        host = host._replace(
            cpu_cores=facts.cpu_cores, gpus=len(facts.gpus), memory_bytes=facts.memory_bytes,
            environments=list(facts.environments),
        )  # fmt: skip
    repeated = host.last_request == request.request_id
    intake = await _take_reports(connection, catalogue, config, host, leased, request)
    left = [task for task in leased if task.task_id not in intake.ended]
    kept, cancelled = await _reconcile(connection, catalogue, host, left, request)
    if repeated:
        again = [task for task in kept if task.granted_by == request.request_id]
        grants, reason = await _describe(connection, catalogue, host, again), ""
    else:
        grants, reason = await _lease(connection, catalogue, config, host, kept, intake, request)
    granted = {d: sum(g.device == d for g in grants) for d in ("cpu", "gpu")}
    capacity = request.capacity
    await store.update_host(
        connection, host, request.request_id,
        allowance=intake.allowance, failing=intake.failing, pace=intake.pace,
        idle=(max(0, min(capacity.cpu_slots_free, host.cpu_cores) - granted["cpu"]),
              max(0, min(capacity.gpu_slots_free, host.gpus) - granted["gpu"])),
        draining=clean(request.draining), pending=len(intake.ended),
    )  # fmt: skip
    hungry = not grants and not kept and not request.draining
    return SyncAnswer(
        request_id=request.request_id,
        grants=grants,
        acknowledged=intake.acknowledged,
        cancelled=cancelled,
        next_sync_seconds=config.serve.idle_sync_seconds if hungry else config.serve.sync_seconds,
        no_work_reason=reason,
        credit=_credit(host, host.pending + len(intake.ended)),
    )


async def _take_reports(
    connection: Connection, catalogue: Catalogue, config: Config, host: HostRow,
    leased: Sequence[TaskRow], request: SyncRequest,
) -> _Intake:  # fmt: skip
    known = {task.task_id: task for task in leased}
    absent = [r.task_id for r in request.reports if r.task_id not in known]
    absent = [task_id for task_id in absent if 0 < task_id <= TASK_ID_MAX]
    if absent:
        for task in await store.named_tasks(connection, host.host_id, absent):
            known[task.task_id] = task
    await catalogue.know(connection, {task.version_id for task in known.values()})
    slots = host.cpu_cores + host.gpus
    since = (host.now - (host.last_seen_at or host.now)).total_seconds()
    held = any(task.state in ("leased", "lost") for task in known.values())
    allowance = allowance_after(host.allowance, slots, since, held)
    fresh: dict[int, Report] = {}
    for report in request.reports:
        named = known.get(report.task_id)
        if named is not None and named.state in ("leased", "lost"):
            fresh.setdefault(report.task_id, report)
    claims = [
        Claim(
            task_id=task_id,
            claimed_seconds=report.elapsed_seconds,
            wall_seconds=(host.now - known[task_id].granted_at).total_seconds(),
        )
        for task_id, report in sorted(fresh.items())
    ]
    believed = believe(claims, allowance, slots)
    ended = [
        _judge(catalogue, known[task_id], report, believed.elapsed_seconds[task_id])
        for task_id, report in fresh.items()
    ]
    if ended:
        await store.end_tasks(connection, ended, host.now)
        await _follow_up(connection, catalogue, config, host, ended)
    refusals = {task.task_id: task.refusal for task in known.values()}
    refusals |= {e.task.task_id: e.refusal for e in ended}
    return _Intake(
        acknowledged=[
            Acknowledgement(task_id=r.task_id, refusal=refusals.get(r.task_id, NOT_YOURS))
            for r in request.reports
        ],
        ended=set(fresh),
        allowance=believed.allowance_seconds,
        failing=_failing(catalogue, host.failing, ended),
        pace=await _pace(connection, catalogue, host.pace, ended),
    )


def _judge(catalogue: Catalogue, task: TaskRow, report: Report, elapsed: float) -> EndedTask:
    """Hold a report against its experiment's schema."""
    ended = EndedTask(
        task=task, outcome=report.outcome, claimed_seconds=report.elapsed_seconds,
        elapsed_seconds=elapsed, cpu_seconds=report.cpu_seconds,
        peak_memory_bytes=report.peak_memory_bytes, refusal="", message=clean(report.message),
    )  # fmt: skip
    if report.outcome != "success":
        return ended
    manifest = catalogue.versions[task.version_id].manifest
    try:
        result: Result = gate(manifest, report.result)
    except ResultRefused as refused:
        return replace(ended, refusal=clean(str(refused))[:REFUSAL_LENGTH])
    encoded = msgspec.json.encode(result)
    return replace(
        ended, result=encoded, valid=int(result["valid"]), digest=hashlib.sha256(encoded).digest()
    )


async def _follow_up(
    connection: Connection, catalogue: Catalogue, config: Config, host: HostRow,
    ended: Sequence[EndedTask],
) -> None:  # fmt: skip
    """Let failed workunits wait again, and have some results checked elsewhere."""
    again = []
    for end in ended:
        decision = retry.after(end.outcome, bool(end.refusal), end.task.attempt)  # type: ignore[arg-type]
        if decision.again and end.task.state == "leased":
            again.append((end.task, decision.attempt))
    if again:
        await store.requeue(connection, again)
    good = [end.task for end in ended if end.result is not None]
    if late := [task.workunit_id for task in good if task.state == "lost"]:
        await store.unqueue(connection, late)
    if not replicate.others(host.user_id, catalogue.live_users):
        return  # nobody else could check it: it stands on its gate
    checked = [
        task
        for task in good
        if task.purpose == "first"
        and replicate.wants_replica(config.replication, host.agreements, _draw())
    ]
    if checked:
        await store.want_comparison(connection, checked)


def _draw() -> float:
    return secrets.randbits(32) / 2**32


def _failing(catalogue: Catalogue, failing: int, ended: Sequence[EndedTask]) -> int:
    for end in sorted(ended, key=lambda e: e.task.task_id):
        spared = catalogue.versions[end.task.version_id].state == "stopped"
        failing = retry.failing_after(failing, end.outcome, bool(end.refusal), spared)  # type: ignore[arg-type]
    return failing


async def _pace(
    connection: Connection, catalogue: Catalogue, pace: float, ended: Sequence[EndedTask]
) -> float:
    good = [end for end in ended if end.result is not None and end.elapsed_seconds > 0]
    if not good:
        return pace
    await catalogue.know_parameters(connection, {end.task.parameters_id for end in good})
    declared = sum(catalogue.parameters[end.task.parameters_id].budget_seconds for end in good)
    newest = sum(end.elapsed_seconds for end in good) / max(declared, 1e-3)
    low, high = PACE_RANGE
    return min(max(pace + PACE_WEIGHT * (newest - pace), low), high)


async def _reconcile(
    connection: Connection, catalogue: Catalogue, host: HostRow, leased: Sequence[TaskRow],
    request: SyncRequest,
) -> tuple[list[TaskRow], list[int]]:  # fmt: skip
    """What the host still has of its leases, and what it should stop.

    A lease that the host does not know of is lost and goes back at once; what it has without a
    lease (expired, or its experiment was stopped) it need not finish.
    """
    in_hand = {task.task_id: task.state for task in request.in_hand}
    just_granted = request.request_id
    lost = [t for t in leased if t.task_id not in in_hand and t.granted_by != just_granted]
    stopped = [
        t for t in leased
        if t.task_id in in_hand and catalogue.versions[t.version_id].state == "stopped"
    ]  # fmt: skip
    if gone := lost + stopped:
        await store.lose_tasks(connection, [t.task_id for t in gone], host.now)
        await store.requeue(connection, [(t, t.attempt) for t in gone])
    gone_ids = {t.task_id for t in gone}
    kept = [t for t in leased if t.task_id not in gone_ids]
    still = {t.task_id for t in kept}
    return kept, sorted(t for t, state in in_hand.items() if t not in still and state != "ended")


async def _lease(
    connection: Connection, catalogue: Catalogue, config: Config, host: HostRow,
    kept: Sequence[TaskRow], intake: _Intake, request: SyncRequest,
) -> tuple[list[Grant], str]:  # fmt: skip
    """Offer work until the host's room is filled or the pools are empty."""
    user_leased = 0
    if config.lease.tasks_per_user and host.user_id is not None:
        user_leased = await store.leased_by_user(connection, host.user_id)
    view = lease.HostView(
        cpu_cores=host.cpu_cores, gpus=host.gpus, memory_bytes=host.memory_bytes,
        environments=frozenset(host.environments), pace=intake.pace, failing=intake.failing,
        leased={d: _slots(catalogue, kept, d) for d in ("cpu", "gpu")},
        user_leased=user_leased,
        quarantined=host.state_reason or "see its owner" if host.state == "quarantined" else "",
    )  # fmt: skip
    typical = _typical_seconds(catalogue, view)
    space = lease.room(config.lease, view, request.capacity, request.draining, typical)
    wanted = space
    grants: list[Grant] = []
    for _ in range(PASSES_MAX):
        if space.cpu <= 0 and space.gpu <= 0:
            break
        asked = lease.quotas(catalogue.pools, view, space, catalogue.given, catalogue.empty())
        offered = await store.candidates(
            connection, host.host_id, {"cpu": space.cpu, "gpu": space.gpu},
            [(pool.version_id, pool.device, count) for pool, count in asked],
        )  # fmt: skip
        _note_empty(catalogue, asked, offered)
        await catalogue.know(connection, {c.version_id for c in offered})
        sizes = [(c.device, _size(catalogue, c.version_id, c.device)) for c in offered]
        chosen = [offered[i] for i in lease.choose(sizes, space)]  # type: ignore[arg-type]
        if not chosen:
            if not asked:
                break
            continue
        grants += await _grant(connection, catalogue, config, host, chosen, typical, request)
        used = {d: sum(_size(catalogue, c.version_id, d) for c in chosen if c.device == d)
                for d in ("cpu", "gpu")}  # fmt: skip
        space = replace(space, cpu=space.cpu - used["cpu"], gpu=space.gpu - used["gpu"])
    reason = space.reason
    if not grants and not reason and (wanted.cpu > 0 or wanted.gpu > 0):
        reason = "no work is waiting for a host like this"
    return grants, reason


def _note_empty(
    catalogue: Catalogue,
    asked: Sequence[tuple[lease.PoolView, int]],
    offered: Sequence[CandidateRow],
) -> None:
    counts: dict[tuple[int, str], int] = {}
    for candidate in offered:
        key = (candidate.version_id, candidate.device)
        counts[key] = counts.get(key, 0) + 1
    for pool, most in asked:
        key = (pool.version_id, pool.device)
        if counts.get(key, 0) < most:
            catalogue.found_empty(key)


async def _grant(
    connection: Connection, catalogue: Catalogue, config: Config, host: HostRow,
    chosen: Sequence[CandidateRow], typical: float, request: SyncRequest,
) -> list[Grant]:  # fmt: skip
    await catalogue.know_parameters(connection, {c.parameters_id for c in chosen})
    ahead = typical * len(chosen) / max(1, host.cpu_cores + host.gpus)
    leases = [
        (
            c,
            lease.lease_seconds(
                config.lease, _budget(catalogue, c.parameters_id), host.pace, ahead
            ),
        )
        for c in chosen
    ]
    tasks = await store.grant(connection, host, request.request_id, leases)
    for candidate in chosen:
        catalogue.was_given((candidate.version_id, candidate.device), 1)
    made = [
        _to_grant(catalogue, tasks[c.workunit_id, c.purpose], c, seconds) for c, seconds in leases
    ]
    return sorted(made, key=lambda grant: grant.task_id)  # as a repeated answer lists them


async def _describe(
    connection: Connection, catalogue: Catalogue, host: HostRow, tasks: Sequence[TaskRow]
) -> list[Grant]:
    """The grants of an answer that was lost, with what is left of their leases."""
    await catalogue.know_parameters(connection, {task.parameters_id for task in tasks})
    return [
        _to_grant(catalogue, task.task_id, task, _until(host.now, task.deadline_at))
        for task in tasks
    ]


def _to_grant(
    catalogue: Catalogue, task_id: int, source: CandidateRow | TaskRow, seconds: float
) -> Grant:
    version = catalogue.versions[source.version_id]
    parameters = catalogue.parameters[source.parameters_id]
    return Grant(
        task_id=task_id, experiment=version.name, version=version.version, sha256=version.sha256,
        parameters=parameters.parameters, seed=source.seed,
        budget_seconds=parameters.budget_seconds, lease_seconds=seconds,
        device="gpu" if source.device == "gpu" else "cpu",
    )  # fmt: skip


def _until(now: datetime, deadline: datetime) -> float:
    return max(0.0, (deadline - now).total_seconds())


def _budget(catalogue: Catalogue, parameters_id: int) -> float:
    return catalogue.parameters[parameters_id].budget_seconds


def _size(catalogue: Catalogue, version_id: int, device: str) -> int:
    resources = catalogue.versions[version_id].manifest.resources
    return max(1, resources.gpus) if device == "gpu" else resources.cpu_cores


def _slots(catalogue: Catalogue, tasks: Sequence[TaskRow], device: str) -> int:
    return sum(_size(catalogue, t.version_id, device) for t in tasks if t.device == device)


def _typical_seconds(catalogue: Catalogue, view: lease.HostView) -> float:
    """A typical run on this host, by which its buffer of seconds becomes a number of tasks."""
    expected = [pool.expected_seconds for pool in catalogue.pools if lease.fits(pool, view)]
    return view.pace * sum(expected) / len(expected) if expected else 1.0


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


def clean(text: Any) -> str:
    """A volunteer's text without what PostgreSQL cannot store: NULs and lone surrogates."""
    return str(text).replace("\0", "").encode("utf-8", "replace").decode()
