"""Compare results of one seed: confirm results, charge hosts, quarantine accounts, add replicas.

The decisions are made by `decide/replicate` and `decide/validate`; this module stores them, in the
caller's transaction.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import structlog

from axiom_server.config import Config
from axiom_server.decide import replicate, validate
from axiom_server.decide.replicate import Panel, ReplicaNeed
from axiom_server.decide.standing import Level, level
from axiom_server.decide.validate import ComparedResult, ComparisonDecision
from axiom_server.store import alarms, comparisons, experiments, hosts, standing
from axiom_server.store.comparisons import OpenRow
from axiom_server.store.database import Connection
from axiom_server.store.experiments import ParametersRow, VersionRow
from axiom_server.store.owner_locks import lock_accounts, lock_owners_of_tasks

DAY_SECONDS = 86400.0
WITHDRAW_SECONDS = 30 * DAY_SECONDS  # after a mismatch, a host's results of so long are re-checked
SAMPLED_ACCOUNTS = 500  # whose hosts are read in a round: with 100,000 hosts, all take two seconds
ALL_ACCOUNTS = 2**62
KNOWN_ANSWER = 0  # task id that stands for the result of the server's own dry run

log = structlog.get_logger()


@dataclass(kw_only=True)
class _Changes:
    """The changes that follow from comparisons. ``states``: workunits by (state, note)."""

    states: dict[tuple[str, str], list[int]] = field(default_factory=dict)
    confirmed: list[tuple[int, ...]] = field(default_factory=list)
    outliers: list[tuple[int, str]] = field(default_factory=list)
    irreproducible: list[tuple[int, str]] = field(default_factory=list)  # (version, why)
    needs: list[ReplicaNeed] = field(default_factory=list)

    def add(
        self, group: Sequence[OpenRow], decision: ComparisonDecision, *, final: bool = False
    ) -> None:
        """Add the decision on a workunit. ``final``: no result will be added to it."""
        workunit_id, version_id = group[0].workunit_id, group[0].version_id
        state = "agreed"
        if decision.verdict == "agreed":
            self.confirmed.append(decision.agreeing)
            self.outliers += decision.outliers
            state = "settled" if decision.outliers else "agreed"
        elif decision.verdict == "unsettled":
            self.irreproducible.append(
                (version_id, f"{len(group)} hosts gave different results for one seed: "
                             f"{decision.note}")
            )  # fmt: skip
            state = "given_up"
        else:
            state = "given_up" if final or decision.missing == 0 else decision.verdict
        self.states.setdefault((state, decision.note), []).append(workunit_id)


async def compare_and_place(connection: Connection, config: Config) -> None:
    """Decide the open comparisons whose replicas have all returned; queue replicas they lack."""
    found = await comparisons.open_results(connection)
    if found:
        known = await _load_versions(connection, found)
        answers = await _known_answers(connection, found, known)
        changes = _decide(config, found, known, answers)
        await _place(connection, config, found, changes, known, answers)
        await _write(connection, config, changes)
    await _check_newcomers(connection, config)


async def _load_panel(connection: Connection, config: Config, accounts_max: int) -> Panel:
    live = config.deploy.live_minutes * 60
    return await comparisons.load_panel(connection, config.standing, live, accounts_max)


def _decide(
    config: Config, found: Sequence[OpenRow], known: Mapping[int, VersionRow],
    answers: Mapping[int, ComparedResult],
) -> _Changes:  # fmt: skip
    changes = _Changes()
    for workunit_id, rows in groupby(found, key=lambda r: r.workunit_id):
        group = list(rows)
        version = known[group[0].version_id]
        results = _compared_results(config, group, answers.get(workunit_id))
        retired = version.state == "retired"  # what its results lack, no host computes any more
        decision = validate.compare(version.manifest, results, final=retired)
        if decision.missing and version.state == "active":
            changes.needs.append(_need(group, version, decision))
        else:
            changes.add(group, decision, final=retired)
    return changes


def _compared_results(
    config: Config, group: Sequence[OpenRow], answer: ComparedResult | None
) -> list[ComparedResult]:
    results = [
        ComparedResult(
            task_id=row.task_id, host_id=row.host_id, user_id=row.user_id, address=row.address,
            result=row.result, level=level(config.standing, row.standing), asked=row.asked,
        )
        for row in group
    ]  # fmt: skip
    return results if answer is None else [answer, *results]


def _need(
    group: Sequence[OpenRow], version: VersionRow, decision: ComparisonDecision
) -> ReplicaNeed:
    return ReplicaNeed(
        workunit_id=group[0].workunit_id,
        device=group[0].device,
        environment=version.manifest.environment,
        memory_bytes=version.manifest.resources.memory_bytes,
        users=frozenset(group[0].involved),
        addresses=frozenset(group[0].addresses),
        disputed=decision.verdict == "disputed",
        count=decision.missing,
    )


async def _place(
    connection: Connection, config: Config, found: Sequence[OpenRow],
    changes: _Changes, known: Mapping[int, VersionRow], answers: Mapping[int, ComparedResult],
) -> None:  # fmt: skip
    """Draw hosts for the replicas. Where no host is left, decide from the results that exist.

    In a large project, the hosts are drawn from those of a part of the accounts, if there are any.
    """
    if not changes.needs:
        return
    draws = {need.workunit_id: secrets.randbits(53) / 2**53 for need in changes.needs}
    placed: list[tuple[ReplicaNeed, int]] = []
    unplaceable = changes.needs
    for accounts_max in (SAMPLED_ACCOUNTS, ALL_ACCOUNTS):
        panel = await _load_panel(connection, config, accounts_max)
        if panel.is_enough:
            more, unplaceable = replicate.place(panel, unplaceable, draws)
            placed += more
        if panel.complete or not unplaceable:
            break
    versions = {row.workunit_id: row.version_id for row in found}
    hold_seconds = config.replication.hold_hours * 3600
    await comparisons.queue_replicas(connection, placed, versions, hold_seconds)
    groups = {w: list(rows) for w, rows in groupby(found, key=lambda r: r.workunit_id)}
    for need in unplaceable:
        group = groups[need.workunit_id]
        results = _compared_results(config, group, answers.get(need.workunit_id))
        manifest = known[group[0].version_id].manifest
        decision = validate.compare(manifest, results, final=True)
        if decision.verdict == "wanted":  # only one account can compute it
            decision = ComparisonDecision(verdict="wanted", note="nobody else could compute it")
        changes.add(group, decision)


async def _write(connection: Connection, config: Config, changes: _Changes) -> None:
    for (state, note), workunits in changes.states.items():
        await comparisons.set_state(connection, workunits, state, note)
    judged = [t for group in changes.confirmed for t in group] + [t for t, _ in changes.outliers]
    if judged:
        await lock_owners_of_tasks(connection, judged)
    for version_id, why in changes.irreproducible:
        await alarms.raise_alarm(connection, version_id, "irreproducible", why)
    tasks = [tuple(t for t in group if t != KNOWN_ANSWER) for group in changes.confirmed]
    if tasks:
        await standing.confirm(connection, tasks)
        with_answer = [t for group in changes.confirmed if KNOWN_ANSWER in group for t in group]
        await standing.confirm_by_answer(connection, with_answer)
    if outliers := [(t, why) for t, why in changes.outliers if t != KNOWN_ANSWER]:
        charged = await standing.record_mismatches(
            connection, outliers, config.replication.distrust
        )
        await comparisons.refuse_results(connection, outliers)
        reopened = await comparisons.reopen_trusted(connection, charged, WITHDRAW_SECONDS)
        log.warning("results refuted", hosts=charged, reopened=reopened)


async def _check_newcomers(connection: Connection, config: Config) -> None:
    """Check newcomers with workunits that a trusted host has computed; they look like any other."""
    if not await standing.has_trusted_hosts(connection):
        return
    panel = await _load_panel(connection, config, SAMPLED_ACCOUNTS)
    newcomers = {
        c.user_id: c.host_id for c in panel.checkers if c.live and c.level == Level.NEWCOMER
    }
    await comparisons.queue_checks(
        connection, sorted(newcomers.values()), config.replication.hold_hours * 3600
    )


async def _known_answers(
    connection: Connection, found: Sequence[OpenRow], known: Mapping[int, VersionRow]
) -> dict[int, ComparedResult]:
    """The dry run's result, by workunit, where seed, budget and parameters are the same."""
    candidates = [row for row in found if _has_dry_run_seed(known[row.version_id], row)]
    ids = sorted({row.parameters_id for row in candidates})
    sets = {p.parameters_id: p for p in await experiments.parameter_sets(connection, ids)}
    return {
        row.workunit_id: ComparedResult(
            task_id=KNOWN_ANSWER, host_id=0, user_id=None, level=Level.STAFF,
            result=(known[row.version_id].tried or {})["result"],
        )
        for row in candidates
        if _has_dry_run_parameters(known[row.version_id], sets[row.parameters_id])
    }  # fmt: skip


def _has_dry_run_seed(version: VersionRow, row: OpenRow) -> bool:
    tried = version.tried or {}
    return row.device == "cpu" and bool(tried.get("same_bytes")) and tried.get("seed") == row.seed


def _has_dry_run_parameters(version: VersionRow, parameters: ParametersRow) -> bool:
    tried = version.tried or {}
    return not parameters.parameters and tried.get("budget_seconds") == parameters.budget_seconds


async def quarantine_hosts(connection: Connection, config: Config) -> None:
    """Quarantine hosts with too many mismatches."""
    policy, window = config.replication, config.replication.window_days * DAY_SECONDS
    suspects = await standing.suspects(connection, window)
    await lock_accounts(connection, [suspect.host_id for suspect in suspects], ())
    for suspect in suspects:
        impossible_times = suspect.impossible_times >= policy.mismatches_to_quarantine
        if impossible_times or _is_quarantined(policy, suspect):
            reason = (
                f"{suspect.mismatches} of its results in {policy.window_days:g} days differ from "
                "other hosts', or claim time that did not pass"
            )
            await quarantine(connection, suspect.host_id, reason)


async def quarantine_accounts(connection: Connection, config: Config) -> None:
    """Quarantine accounts with too many mismatches on hosts that are not in quarantine."""
    policy, window = config.replication, config.replication.window_days * DAY_SECONDS
    suspects = await standing.suspect_accounts(connection, window)
    await lock_accounts(connection, (), [account.user_id for account in suspects])
    for account in suspects:
        if _is_quarantined(policy, account):
            reason = (
                f"{account.mismatches} results of its hosts in {policy.window_days:g} days differ "
                "from other hosts'"
            )
            chosen = await standing.quarantine_account(connection, account.user_id, reason)
            await _quarantine(connection, chosen, reason)


def _is_quarantined(
    policy: replicate.ReplicationPolicy, suspect: standing.SuspectRow | standing.SuspectAccount
) -> bool:
    return replicate.quarantines(
        policy, suspect.mismatches, suspect.compared,
        refuted_by=suspect.refuted_by, confirmed_by=suspect.confirmed_by,
    )  # fmt: skip


async def quarantine(connection: Connection, host_id: int, reason: str) -> None:
    """Quarantine a host, and its whole account unless most of its hosts have a good record."""
    all_hosts = await standing.hosts_of_account(connection, host_id)
    good = [
        h for h, state, streak in all_hosts if h != host_id and state == "active" and streak > 0
    ]
    bad = [h for h, state, _ in all_hosts if h == host_id or state == "quarantined"]
    chosen = [host_id]
    user_id = await standing.account_of(connection, host_id)
    if user_id is not None and len(good) <= len(bad):
        chosen = await standing.quarantine_account(connection, user_id, reason)
    await _quarantine(connection, chosen, reason)


async def _quarantine(connection: Connection, chosen: Sequence[int], reason: str) -> None:
    """Quarantine these hosts, and take back what they returned."""
    for host_id in chosen:
        await hosts.set_state(connection, host_id, "quarantined", reason)
    withdrawn = await comparisons.withdraw_results(
        connection, chosen, f"this host is quarantined: {reason}", WITHDRAW_SECONDS
    )
    log.warning("hosts quarantined", hosts=chosen, reason=reason, withdrawn=withdrawn)


async def _load_versions(connection: Connection, found: Sequence[OpenRow]) -> dict[int, VersionRow]:
    ids = sorted({row.version_id for row in found})
    return {v.version_id: v for v in await experiments.versions_by_id(connection, ids)}
