"""Collect a session's log from the database: credit, deployments, findings and next steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import msgspec

from axiom_protocol.manifest import Manifest
from axiom_protocol.text import counted
from axiom_protocol.verdicts.findings import SEEDS_MIN
from axiom_server.config import Config
from axiom_server.decide.credit import CreditPolicy, tier_of
from axiom_server.review.log import (
    ExperimentWork,
    FindingLine,
    HostWork,
    NewExperiment,
    SessionLog,
    TierLine,
    UserCredit,
)
from axiom_server.store import credit, experiments, session_sums, sessions
from axiom_server.store.credit import CreditEntry, CreditSum
from axiom_server.store.database import Connection
from axiom_server.store.experiments import VersionRow
from axiom_server.store.sessions import DeploymentRow, SessionRow

NO_OWNER = "(no owner)"  # credit of imported hosts without a user


async def session_log(
    connection: Connection, config: Config, session_id: int | None, *, opened: bool = False
) -> SessionLog:
    """The log of one session.

    When ``session_id`` is None, it is the log of a review that found nothing new: it has the
    deployments and findings of the latest session, if there is one, and no credit.
    """
    session = await sessions.get(connection, session_id)
    has_credit = session is not None and session_id is not None
    entries = await credit.session_sums(connection, session_id) if session_id else []
    record: dict[str, Any] = session.record if session else {}
    deployments, deployed_since = await _deployments(connection, session)
    users, by_experiment = await _credit_by_name(connection, entries)
    findings = msgspec.convert(record.get("findings", []), list[FindingLine])
    pending = record.get("pending", 0)
    return SessionLog(
        project=config.project.name,
        session=session.session_id if session else None,
        at=session.opened_at if session else None,
        opened=opened,
        results=sum(e.results for e in entries),
        credit=float(sum((e.amount for e in entries), Decimal(0))),
        tiers=msgspec.convert(record["tiers"], list[TierLine])
        if has_credit
        else credit_by_tier(config.credit, []),
        users=users,
        by_experiment=by_experiment,
        unpaid=record.get("unpaid", {}) if session_id is not None else {},
        pending=pending,
        deployed=_experiments(deployments),
        deployed_to=await _hosts(connection, deployments),
        deployed_to_pool=sum(d.record["pool"] for d in deployments),
        deployed_since=deployed_since,
        new_experiments=await _new_experiments(connection, deployments),
        findings=findings,
        alarms=record.get("alarms", []),
        seeds=record.get("seeds", []),
        next_steps=[
            *next_steps(
                findings,
                [e.name for e in _experiments(deployments) if e.new],
                len({host for d in deployments for host, _, _ in d.record["hosts"]}),
                pending,
            ),
            *(await sessions.notes(connection, session.session_id) if session else []),
        ],
    )


def credit_by_tier(policy: CreditPolicy, entries: Sequence[CreditEntry]) -> list[TierLine]:
    """Results and credit of each tier of elapsed time, also for policies without tiers."""
    counts, sums = Counter[int](), dict[int, Decimal]()
    for entry in entries:
        index = tier_of(policy, entry.elapsed_seconds)
        counts[index] += 1
        sums[index] = sums.get(index, Decimal(0)) + entry.amount
    starts = [tier.min_elapsed_seconds for tier in policy.tiers]
    return [
        TierLine(
            min_elapsed_seconds=tier.min_elapsed_seconds,
            below_seconds=starts[i + 1] if i + 1 < len(starts) else None,
            credit_each=tier.credit if policy.kind == "tiers" else 0.0,
            results=counts[i],
            credit=float(sums.get(i, Decimal(0))),
        )
        for i, tier in enumerate(policy.tiers)
    ]


async def _deployments(
    connection: Connection, session: SessionRow | None
) -> tuple[list[DeploymentRow], int | None]:
    """A session's deployments; if it has none, those of the previous session and its number."""
    if session is None:
        return await sessions.deployments(connection, None), None
    own = await sessions.deployments(connection, session.session_id)
    if own or session.session_id == 1:
        return own, None
    previous = session.session_id - 1
    return await sessions.deployments(connection, previous), previous


async def _credit_by_name(
    connection: Connection, entries: Sequence[CreditSum]
) -> tuple[list[UserCredit], dict[str, int]]:
    """Credit of each user, most first, and the number of results of each experiment."""
    user_names, experiment_names = await credit.names(
        connection,
        sorted({e.user_id for e in entries if e.user_id is not None}),
        sorted({e.experiment_id for e in entries}),
    )
    sums: dict[str, Decimal] = {}
    results, hosts = Counter[str](), dict[str, set[int]]()
    for entry in entries:
        name = NO_OWNER if entry.user_id is None else user_names[entry.user_id]
        sums[name] = sums.get(name, Decimal(0)) + entry.amount
        results[name] += entry.results
        hosts.setdefault(name, set()).add(entry.host_id)
    users = [
        UserCredit(name=n, credit=float(sums[n]), results=results[n], hosts=sorted(hosts[n]))
        for n in sorted(sums, key=lambda n: (-sums[n], n))
    ]
    counts = Counter[str]()
    for entry in entries:
        counts[experiment_names[entry.experiment_id]] += entry.results
    return users, dict(counts.most_common())


def _experiments(deployments: Sequence[DeploymentRow]) -> list[ExperimentWork]:
    """Workunits of each version over all deployments, in the order first deployed."""
    merged: dict[tuple[str, str], ExperimentWork] = {}
    for deployment in deployments:
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


async def _hosts(connection: Connection, deployments: Sequence[DeploymentRow]) -> list[HostWork]:
    """Workunits of each host over all deployments, most first."""
    sums: dict[int, tuple[int, int]] = {}
    for deployment in deployments:
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
    connection: Connection, deployments: Sequence[DeploymentRow]
) -> list[NewExperiment]:
    parameter_sets = {
        line["version_id"]: deployment.record["parameters"]
        for deployment in deployments
        for line in deployment.record["experiments"]
        if line["new"]
    }
    return [
        _new(v, parameter_sets[v.version_id])
        for v in await experiments.versions_by_id(connection, sorted(parameter_sets))
    ]


def _new(version: VersionRow, parameter_sets: Sequence[dict[str, Any]]) -> NewExperiment:
    manifest = version.manifest
    return NewExperiment(
        name=version.name, title=manifest.title, question=manifest.question,
        rationale=manifest.rationale, sweep=sweep(manifest, parameter_sets), tried=version.tried,
    )  # fmt: skip


def sweep(manifest: Manifest, parameter_sets: Sequence[dict[str, Any]]) -> list[str]:
    """One line for each parameter, with its values over the parameter sets that were deployed."""
    lines = []
    for name, parameter in manifest.parameters.items():
        values: list[Any] = []
        for parameters in parameter_sets:
            value = parameters.get(name, parameter.default)
            if value not in values:
                values.append(value)
        text = "; ".join(_value_text(value) for value in values)
        lines.append(f"{name}: {text}" + (f" ({parameter.about})" if parameter.about else ""))
    return lines


def _value_text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


async def deployed_work(
    connection: Connection, session_id: int
) -> tuple[list[ExperimentWork], list[NewExperiment]]:
    """What a session deployed and what was new of it, as summed up for the pages."""
    made = await session_sums.deployed_versions(connection, session_id)
    versions = await experiments.versions_by_id(connection, [v.version_id for v in made])
    known = {v.version_id: v for v in versions}
    work = [
        ExperimentWork(
            name=known[v.version_id].name, version=known[v.version_id].version,
            title=known[v.version_id].manifest.title, workunits=v.workunits, new=v.new,
        )
        for v in made
    ]  # fmt: skip
    return work, [_new(known[v.version_id], v.parameters or []) for v in made if v.new]


def next_steps(
    findings: Sequence[FindingLine], new_experiments: Sequence[str], hosts: int, pending: int
) -> list[str]:
    """Next steps that follow from the verdicts and from what was deployed to this many hosts."""
    where = f" from {counted(hosts, 'host')}" if hosts else ""
    lines = [f"Review {name} results as they come in{where}" for name in new_experiments]
    undecided: dict[str, list[FindingLine]] = {}
    for line in findings:
        if line.verdict in ("insufficient", "preliminary"):
            undecided.setdefault(line.experiment, []).append(line)
    lines += [_missing_data(name, claims) for name, claims in sorted(undecided.items())]
    if pending:
        waits = "waits" if pending == 1 else "wait"
        lines.append(f"{counted(pending, 'result')} {waits} for a second result from another host")
    return lines


def _missing_data(name: str, claims: Sequence[FindingLine]) -> str:
    """What an experiment's undecided findings need: seeds, a second host, or more results."""
    missing = max(SEEDS_MIN - line.seeds for line in claims)
    hosts_seen = max(line.hosts for line in claims)
    if missing > 0:
        return (
            f"Collect {missing} more {'seed' if missing == 1 else 'seeds'} of {name} for a verdict"
        )
    if hosts_seen < 2:
        return f"Cross-validate {name} on more than {hosts_seen} host"
    return f"Continue collecting {name} for {', '.join(line.name for line in claims)}"
