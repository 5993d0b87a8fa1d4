"""What a host's sync says of its tasks: reports judged, leases it lost, what it should stop.

Reads nothing and writes nothing: `exchange` fetches the rows before, and writes what is found.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from axiom_protocol.messages import Acknowledgement, Report, SyncRequest
from axiom_protocol.result import ResultRefused, gate
from axiom_protocol.text import one_line, plain
from axiom_server.decide import replicate, retry
from axiom_server.decide.elapsed import Believed, Claim, allowance_after, believe, lie
from axiom_server.decide.replicate import ReplicationPolicy
from axiom_server.store.sync import EndedTask, HostRow, TaskRow
from axiom_server.sync.catalogue import Catalogue

REFUSAL_LENGTH = 200  # characters of an acknowledgement's ShortText
PACE_WEIGHT = 0.2  # of the newest reports in a host's pace
PACE_RANGE = (0.05, 50.0)

NOT_YOURS = "this task was never granted to this host"


@dataclass(frozen=True, kw_only=True)
class Visit:
    """A host that speaks. ``tasks``: those leased to it and those its reports name, by id."""

    host: HostRow
    request: SyncRequest
    tasks: Mapping[int, TaskRow]

    @property
    def leased(self) -> list[TaskRow]:
        """What it should have in hand, before its reports are taken."""
        return [task for task in self.tasks.values() if task.state == "leased"]


@dataclass(frozen=True, kw_only=True)
class Intake:
    """What a visit changes.

    again    workunits that wait again, as which attempt
    late     workunits whose lost task was reported after all
    checked  tasks whose result another host shall compute too
    kept     leases that the host goes on with; ``lost`` are taken back; ``cancelled`` it may stop
    lies     the task with a claim that cannot be true, and why
    """

    acknowledged: list[Acknowledgement]
    ended: list[tuple[TaskRow, EndedTask]]
    again: list[tuple[TaskRow, int]]
    late: list[int]
    checked: list[TaskRow]
    kept: list[TaskRow]
    lost: list[TaskRow]
    cancelled: list[int]
    lies: list[tuple[int, str]]
    allowance: float
    failing: int
    pace: float


def take_in(catalogue: Catalogue, policy: ReplicationPolicy, visit: Visit) -> Intake:
    """Judge what a host says. The catalogue knows the versions and parameters of its tasks."""
    host = visit.host
    fresh = _fresh(visit)
    claims = _claims(visit, fresh)
    believed = _believed(visit, claims)
    worst = lie(claims, believed)
    ended = []
    for task_id, report in fresh.items():
        task = visit.tasks[task_id]
        elapsed = believed.elapsed_seconds[task_id]
        ended.append((task, _judge(catalogue, host, task, report, elapsed)))
    good = [task for task, end in ended if end.valid is not None]
    kept, lost, cancelled = _reconcile(catalogue, visit, fresh)
    return Intake(
        acknowledged=_acknowledge(visit, ended),
        ended=ended,
        again=_again(host, ended),
        late=[task.workunit_id for task in good if task.state == "lost"],
        checked=[task for task in good if _checks(catalogue, policy, host, task)],
        kept=kept,
        lost=lost,
        cancelled=cancelled,
        lies=[worst] if worst else [],
        allowance=believed.allowance_seconds,
        failing=_failing(catalogue, host.failing, ended),
        pace=_pace(catalogue, host.pace, ended),
    )


def _fresh(visit: Visit) -> dict[int, Report]:
    """The reports that end a task: of its own, and not reported before."""
    fresh: dict[int, Report] = {}
    for report in visit.request.reports:
        named = visit.tasks.get(report.task_id)
        if named is not None and named.state in ("leased", "lost"):
            fresh.setdefault(report.task_id, report)
    return fresh


def _claims(visit: Visit, fresh: Mapping[int, Report]) -> list[Claim]:
    return [
        Claim(
            task_id=task_id,
            claimed_seconds=report.elapsed_seconds,
            wall_seconds=(visit.host.now - visit.tasks[task_id].granted_at).total_seconds(),
        )
        for task_id, report in sorted(fresh.items())
    ]


def _believed(visit: Visit, claims: Sequence[Claim]) -> Believed:
    host = visit.host
    slots = host.cpu_cores + host.gpus
    since = (host.now - (host.last_seen_at or host.now)).total_seconds()
    held = any(task.state in ("leased", "lost") for task in visit.tasks.values())
    return believe(claims, allowance_after(host.allowance, slots, since, held), slots)


def _judge(
    catalogue: Catalogue, host: HostRow, task: TaskRow, report: Report, elapsed: float
) -> EndedTask:
    """Hold a report against its experiment's schema. Nothing of a quarantined host's counts."""
    refusal, valid, encoded = "", None, b"null"
    if host.state == "quarantined":
        refusal = quarantined(host)[:REFUSAL_LENGTH]
    elif report.outcome == "success":
        try:
            result = gate(catalogue.versions[task.version_id].manifest, report.result)
            valid, encoded = int(result["valid"]), msgspec.json.encode(result)
        except ResultRefused as refused:
            refusal = one_line(str(refused))[:REFUSAL_LENGTH]
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


def _acknowledge(visit: Visit, ended: Sequence[tuple[TaskRow, EndedTask]]) -> list[Acknowledgement]:
    refusals = {task_id: task.refusal for task_id, task in visit.tasks.items()}
    refusals |= {end.task_id: end.refusal for _, end in ended}
    return [
        Acknowledgement(task_id=r.task_id, refusal=refusals.get(r.task_id, NOT_YOURS))
        for r in visit.request.reports
    ]


def quarantined(host: HostRow) -> str:
    """What its owner is told."""
    return f"this host is quarantined: {host.state_reason or 'ask the staff'}"


def _again(host: HostRow, ended: Sequence[tuple[TaskRow, EndedTask]]) -> list[tuple[TaskRow, int]]:
    again = []
    for task, end in ended:
        if host.state == "quarantined":  # as if it had been lost: no fault of the workunit's
            decision = retry.after("lost", False, task.attempt)
        else:
            decision = retry.after(end.outcome, bool(end.refusal), task.attempt)
        if decision.again and task.state == "leased":
            again.append((task, decision.attempt))
    return again


def _checks(catalogue: Catalogue, policy: ReplicationPolicy, host: HostRow, task: TaskRow) -> bool:
    return (
        task.purpose == "first"
        # Where nobody else could check it, it stands on its gate.
        and replicate.others(host.user_id, catalogue.live_users)
        and replicate.wants_replica(policy, host.agreements, _draw())
    )


def _draw() -> float:
    return secrets.randbits(32) / 2**32


def _failing(catalogue: Catalogue, failing: int, ended: Sequence[tuple[TaskRow, EndedTask]]) -> int:
    for task, end in sorted(ended, key=lambda pair: pair[0].task_id):
        spared = catalogue.versions[task.version_id].state == "stopped"
        failing = retry.failing_after(failing, end.outcome, bool(end.refusal), spared)
    return failing


def _pace(catalogue: Catalogue, pace: float, ended: Sequence[tuple[TaskRow, EndedTask]]) -> float:
    good = [(t, end) for t, end in ended if end.valid is not None and end.elapsed_seconds > 0]
    if not good:
        return pace
    declared = sum(catalogue.parameters[task.parameters_id].budget_seconds for task, _ in good)
    newest = sum(end.elapsed_seconds for _, end in good) / max(declared, 1e-3)
    low, high = PACE_RANGE
    return min(max(pace + PACE_WEIGHT * (newest - pace), low), high)


def _reconcile(
    catalogue: Catalogue, visit: Visit, fresh: Mapping[int, Report]
) -> tuple[list[TaskRow], list[TaskRow], list[int]]:
    """What the host still has of its leases, what it lost, and what it should stop.

    A lease that the host does not know of is lost and goes back at once; what it has without a
    lease (expired, its experiment was stopped, or it is quarantined) it need not finish.
    """
    quarantined = visit.host.state == "quarantined"
    in_hand = {task.task_id: task.state for task in visit.request.in_hand}
    kept: list[TaskRow] = []
    lost: list[TaskRow] = []
    for task in visit.leased:
        if task.task_id in fresh:
            continue
        if task.task_id in in_hand:
            gone = quarantined or catalogue.versions[task.version_id].state == "stopped"
        else:
            gone = task.granted_by != visit.request.request_id  # else: the answer was lost
        (lost if gone else kept).append(task)
    still = {task.task_id for task in kept}
    cancelled = sorted(t for t, state in in_hand.items() if t not in still and state != "ended")
    return kept, lost, cancelled
