"""`axiom-server review`: validate and credit what was reported, judge the findings, write the log.

All of it is one transaction. A review that finds nothing new opens no session and changes nothing,
so reviewing again credits nothing, and what is deployed afterwards still belongs to the last one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import msgspec

from axiom_protocol.manifest import Manifest
from axiom_server.config import Config
from axiom_server.decide import credit as policy
from axiom_server.decide import findings as judging
from axiom_server.decide.credit import CreditDecision, CreditPolicy, Earning
from axiom_server.review.judging import judge_all
from axiom_server.review.log import (
    ExperimentWork,
    FindingLine,
    HostWork,
    NewExperiment,
    SessionLog,
    TierLine,
    UserCredit,
)
from axiom_server.store import alarms, credit, experiments, sessions
from axiom_server.store.credit import Entry, ReportedRow
from axiom_server.store.database import Connection
from axiom_server.store.sessions import DeploymentRow, SessionRow

NOBODY = "(no owner)"  # credit of imported hosts without a user


async def review(connection: Connection, config: Config) -> SessionLog:
    """Review everything reported, in the caller's transaction; the log of the session it opened."""
    await sessions.lock(connection)
    waiting = await credit.reported(connection)
    if not waiting:
        return await session_log(connection, config, None, opened=False)
    good = {r.task_id: r for r in waiting if r.outcome == "success" and not r.refusal}
    decisions = policy.decide(
        config.credit,
        [
            Earning(
                task_id=r.task_id, user_id=r.user_id, host_id=r.host_id,
                elapsed_seconds=r.elapsed_seconds, cpu_seconds=r.cpu_seconds,
            )
            for r in good.values()
        ],
    )  # fmt: skip
    entries = [_entry(good[d.task_id], d) for d in decisions if d.amount > 0]
    total = sum((e.amount for e in entries), Decimal(0))
    session_id = await sessions.open_session(connection, len(entries), total)
    await credit.append(connection, session_id, entries)
    await credit.reviewed(connection, [r.task_id for r in waiting])
    judged = await judge_all(connection, config.replication.trusted_after)
    record = {
        "tiers": msgspec.to_builtins(tiers(config.credit, entries)),
        "unpaid": _unpaid(waiting, decisions),
        "pending": await credit.pending(connection),
        "findings": msgspec.to_builtins(judged),
        "alarms": [f"{a.experiment}: {a.message}" for a in await alarms.listing(connection)],
    }
    await sessions.keep_record(connection, session_id, record)
    return await session_log(connection, config, session_id, opened=True)


def _entry(row: ReportedRow, decision: CreditDecision) -> Entry:
    return Entry(
        row.task_id, row.user_id, row.host_id, row.experiment_id, row.elapsed_seconds,
        decision.amount,
    )  # fmt: skip


def tiers(rules: CreditPolicy, entries: Sequence[Entry]) -> list[TierLine]:
    """Results and credit of each tier; the elapsed times are tiered whatever the policy's kind."""
    counts, sums = Counter[int](), dict[int, Decimal]()
    for entry in entries:
        index = policy.tier_of(rules, entry.elapsed_seconds)
        counts[index] += 1
        sums[index] = sums.get(index, Decimal(0)) + entry.amount
    starts = [tier.min_elapsed_seconds for tier in rules.tiers]
    return [
        TierLine(
            min_elapsed_seconds=tier.min_elapsed_seconds,
            below_seconds=starts[i + 1] if i + 1 < len(starts) else None,
            credit_each=tier.credit if rules.kind == "tiers" else 0.0,
            results=counts[i],
            credit=float(sums.get(i, Decimal(0))),
        )
        for i, tier in enumerate(rules.tiers)
    ]


def _unpaid(waiting: Sequence[ReportedRow], decisions: Sequence[CreditDecision]) -> dict[str, int]:
    counts = Counter(r.outcome for r in waiting if r.outcome != "success")
    counts["refused"] = sum(1 for r in waiting if r.outcome == "success" and r.refusal)
    counts["no work"] = sum(1 for d in decisions if d.amount <= 0)
    return {name: n for name, n in sorted(counts.items()) if n}


async def session_log(
    connection: Connection, config: Config, session_id: int | None, *, opened: bool = False
) -> SessionLog:
    """The log of a session, the latest when None; an empty one when there was no session yet.

    When ``opened`` is False and ``session_id`` None, it is the log of a review that found nothing.
    """
    found = await sessions.get(connection, session_id)
    nothing_new = session_id is None
    entries = (
        await credit.of_session(connection, found.session_id) if found and not nothing_new else []
    )
    record: dict[str, Any] = found.record if found else {}
    made, since = await _deployments(connection, found)
    users, by_experiment = await _by_name(connection, entries)
    new = await _new_experiments(connection, made)
    judged = msgspec.convert(record.get("findings", []), list[FindingLine])
    return SessionLog(
        project=config.project.name,
        session=found.session_id if found else None,
        at=found.opened_at if found else None,
        opened=opened,
        results=len(entries),
        credit=float(sum((e.amount for e in entries), Decimal(0))),
        tiers=msgspec.convert(record["tiers"], list[TierLine])
        if found and not nothing_new
        else tiers(config.credit, []),
        users=users,
        by_experiment=by_experiment,
        unpaid=record.get("unpaid", {}) if not nothing_new else {},
        pending=record.get("pending", 0),
        deployed=_experiments(made),
        deployed_to=await _hosts(connection, made),
        deployed_to_pool=sum(d.record["pool"] for d in made),
        deployed_since=since,
        new_experiments=new,
        findings=judged,
        alarms=record.get("alarms", []),
        next_steps=[
            *steps(judged, made, record.get("pending", 0)),
            *(await sessions.notes(connection, found.session_id) if found else []),
        ],
    )


async def _deployments(
    connection: Connection, found: SessionRow | None
) -> tuple[list[DeploymentRow], int | None]:
    """A session's own deployments; while it has none yet, those of the session before."""
    if found is None:
        return await sessions.deployments(connection, None), None
    made = await sessions.deployments(connection, found.session_id)
    if made or found.session_id == 1:
        return made, None
    return await sessions.deployments(connection, found.session_id - 1), found.session_id - 1


async def _by_name(
    connection: Connection, entries: Sequence[Entry]
) -> tuple[list[UserCredit], dict[str, int]]:
    user_names, experiment_names = await credit.names(
        connection,
        sorted({e.user_id for e in entries if e.user_id is not None}),
        sorted({e.experiment_id for e in entries}),
    )
    sums: dict[str, Decimal] = {}
    results, hosts = Counter[str](), dict[str, set[int]]()
    for entry in entries:
        name = NOBODY if entry.user_id is None else user_names[entry.user_id]
        sums[name] = sums.get(name, Decimal(0)) + entry.amount
        results[name] += 1
        hosts.setdefault(name, set()).add(entry.host_id)
    users = [
        UserCredit(name=n, credit=float(sums[n]), results=results[n], hosts=sorted(hosts[n]))
        for n in sorted(sums, key=lambda n: (-sums[n], n))
    ]
    counts = Counter(experiment_names[e.experiment_id] for e in entries)
    return users, dict(counts.most_common())


def _experiments(made: Sequence[DeploymentRow]) -> list[ExperimentWork]:
    merged: dict[tuple[str, str], ExperimentWork] = {}
    for deployment in made:
        for line in deployment.record["experiments"]:
            key = (line["name"], line["version"])
            before = merged.get(key)
            merged[key] = ExperimentWork(
                name=line["name"],
                version=line["version"],
                title=line["title"],
                workunits=line["workunits"] + (before.workunits if before else 0),
                new=line["new"] or (before.new if before else False),
            )
    return list(merged.values())


async def _hosts(connection: Connection, made: Sequence[DeploymentRow]) -> list[HostWork]:
    sums: dict[int, tuple[int, int]] = {}
    for deployment in made:
        for host_id, cpu, gpu in deployment.record["hosts"]:
            before = sums.get(host_id, (0, 0))
            sums[host_id] = (before[0] + cpu, before[1] + gpu)
    names = await sessions.host_names(connection, sorted(sums))
    lines = [
        HostWork(host_id=h, name=names[h][0], user=names[h][1], cpu=cpu, gpu=gpu)
        for h, (cpu, gpu) in sums.items()
    ]
    return sorted(lines, key=lambda line: (-(line.cpu + line.gpu), line.host_id))


async def _new_experiments(
    connection: Connection, made: Sequence[DeploymentRow]
) -> list[NewExperiment]:
    ids = {
        line["version_id"]: deployment.record["parameters"]
        for deployment in made
        for line in deployment.record["experiments"]
        if line["new"]
    }
    return [
        NewExperiment(
            name=v.name,
            title=v.manifest.title,
            question=v.manifest.question,
            rationale=v.manifest.rationale,
            sweep=sweep(v.manifest, ids[v.version_id]),
            tried=v.tried,
        )
        for v in await experiments.versions_by_id(connection, sorted(ids))
    ]


def sweep(manifest: Manifest, given: Sequence[dict[str, Any]]) -> list[str]:
    """What the runs vary: each parameter's values over the sets that were deployed."""
    lines = []
    for name, parameter in manifest.parameters.items():
        values: list[Any] = []
        for parameters in given:
            value = parameters.get(name, parameter.default)
            if value not in values:
                values.append(value)
        shown = "; ".join(_shown(value) for value in values)
        lines.append(f"{name}: {shown}" + (f" ({parameter.about})" if parameter.about else ""))
    return lines


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def steps(judged: Sequence[FindingLine], made: Sequence[DeploymentRow], pending: int) -> list[str]:
    """What is still open, from the verdicts and from what was deployed."""
    lines = []
    for experiment in _experiments(made):
        hosts = {h for d in made for h, _, _ in d.record["hosts"]}
        where = f" from {len(hosts)} hosts" if hosts else ""
        if experiment.new:
            lines.append(f"Review {experiment.name} results as they come in{where}")
    open_now: dict[str, list[FindingLine]] = {}
    for line in judged:
        if line.verdict in ("insufficient", "preliminary"):
            open_now.setdefault(line.experiment, []).append(line)
    for name, lines_of in sorted(open_now.items()):
        missing = max(judging.SEEDS_MIN - line.seeds for line in lines_of)
        hosts_seen = max(line.hosts for line in lines_of)
        if missing > 0:
            seeds = "seed" if missing == 1 else "seeds"
            lines.append(f"Collect {missing} more {seeds} of {name} for a verdict")
        elif hosts_seen < 2:
            lines.append(f"Cross-validate {name} on more than {hosts_seen} host")
        else:
            open_claims = ", ".join(line.name for line in lines_of)
            lines.append(f"Continue collecting {name} for {open_claims}")
    if pending:
        lines.append(f"{pending} results wait for another host's opinion")
    return lines
