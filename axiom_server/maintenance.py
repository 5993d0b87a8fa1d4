"""The periodic work of a serving process: leases, comparisons, replicas, watchdog, signatures.

Any number of processes may run it: a round takes an advisory lock, and a process that does not get
it skips the round.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import groupby

import psycopg
import structlog

from axiom_server.config import Config
from axiom_server.decide import replicate, validate, watchdog
from axiom_server.errors import ServerError
from axiom_server.store import alarms, comparisons, experiments, hosts, tasks
from axiom_server.store.comparisons import OpenRow
from axiom_server.store.database import Connection, Pool, row
from axiom_server.store.experiments import VersionRow
from axiom_server.trust.keys import KeysError
from axiom_server.trust.metadata import BundlesError
from axiom_server.trust.repository import Repository

ROUND_LOCK = 0x726F756E6473  # "rounds"
SIGN_SECONDS = 600.0  # the timestamp needs it every hour
POOL_SECONDS = 5.0  # to wait for a connection before the database counts as down
WATCH_SECONDS = 60.0  # versions with reports this recent are examined
WATCH_ROUNDS = 12  # ... or within this many rounds, if those take longer
DAY_SECONDS = 86400.0

log = structlog.get_logger()


@dataclass(kw_only=True)
class Maintenance:
    """Runs the periodic work. One per serving process.

    restart_database  starts PostgreSQL again; None when it belongs to the operator
    """

    pool: Pool
    config: Config
    bundles: Repository
    restart_database: Callable[[], object] | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the periodic work while the block runs."""
        jobs = [
            asyncio.create_task(self._run_rounds()),
            asyncio.create_task(self._resign_metadata()),
        ]
        try:
            yield
        finally:
            for job in jobs:
                job.cancel()
            await asyncio.gather(*jobs, return_exceptions=True)

    async def _run_rounds(self) -> None:
        while True:
            await asyncio.sleep(self.config.serve.round_seconds)
            try:
                async with self.pool.connection(timeout=POOL_SECONDS) as connection:
                    await run_round(connection, self.config)
            except psycopg.OperationalError as error:
                log.warning(
                    "maintenance round failed; it will be repeated", error=str(error).strip()
                )
                await self._restart_database()

    async def _restart_database(self) -> None:
        """Start the embedded PostgreSQL again, which may have been killed for lack of memory."""
        if self.restart_database is None:
            return
        try:
            await asyncio.to_thread(self.restart_database)
            await self.pool.check()
        except (ServerError, psycopg.OperationalError) as error:
            log.error("the database does not start", error=str(error))

    async def _resign_metadata(self) -> None:
        while True:
            try:
                await asyncio.to_thread(self.bundles.refresh_online)
            except (BundlesError, KeysError, OSError) as error:
                log.error("the bundles could not be re-signed", error=str(error))
            await asyncio.sleep(SIGN_SECONDS)


async def run_round(connection: Connection, config: Config) -> bool:
    """Run one round, in short transactions; False when another process is running one."""
    async with connection.transaction():
        if not (await row(connection, "SELECT pg_try_advisory_xact_lock(%s)", (ROUND_LOCK,)))[0]:
            return False
        expired = await tasks.expire(connection, config.lease.silent_hours * 3600)
        held_hours = max(config.deploy.hold_hours, config.replication.hold_hours)
        released = await tasks.release_held(connection, held_hours * 3600)
    if expired or released:
        log.info("leases expired or released", expired=expired, released=released)
    async with connection.transaction():
        if not (await row(connection, "SELECT pg_try_advisory_xact_lock(%s)", (ROUND_LOCK,)))[0]:
            return False
        await compare_results(connection, config)
        await quarantine_hosts(connection, config)
        await place_replicas(connection, config)
        await stop_faulty_experiments(connection, config)
    return True


async def compare_results(connection: Connection, config: Config) -> None:
    """Compare the results for one seed where the replica has ended."""
    found = await comparisons.answered_results(connection, config.replication.trusted_after)
    known = await _versions(connection, found)
    by_state: dict[tuple[str, str], list[int]] = {}
    agreeing: list[int] = []
    outliers: list[tuple[int, str]] = []
    for workunit_id, group in groupby(found, key=lambda r: r.workunit_id):
        results = list(group)
        version = known[results[0].version_id]
        decision = validate.compare(version.manifest, [_compared(o) for o in results])
        state: str = decision.verdict if len(results) > 1 else "wanted"  # else the replica was lost
        if decision.verdict == "unsettled":
            state = "given_up"
            await _raise_irreproducible(connection, version, len(results), decision.note)
        elif decision.outliers:
            state = "settled"
        if len(results) > 1:
            agreeing += decision.agreeing
            outliers += decision.outliers
        by_state.setdefault((state, decision.note), []).append(workunit_id)
    for (state, note), workunits in by_state.items():
        await comparisons.set_state(connection, workunits, state, note)
    if agreeing:
        await comparisons.record_agreements(connection, agreeing)
    if outliers:
        await comparisons.record_mismatches(connection, outliers, config.replication.distrust)
        await comparisons.refuse_results(connection, outliers)


def _compared(found: OpenRow) -> validate.ComparedResult:
    return validate.ComparedResult(
        task_id=found.task_id, host_id=found.host_id, result=found.result, trusted=found.trusted
    )


async def _raise_irreproducible(
    connection: Connection, version: VersionRow, results: int, note: str
) -> None:
    await alarms.raise_alarm(
        connection, version.version_id, "irreproducible",
        f"{results} hosts gave different results for one seed: {note}",
    )  # fmt: skip


async def quarantine_hosts(connection: Connection, config: Config) -> None:
    """Quarantine hosts that have too many mismatches."""
    policy = config.replication
    for host_id, count in (
        await comparisons.count_mismatches(connection, policy.window_days * DAY_SECONDS)
    ).items():
        if replicate.quarantines(policy, count):
            reason = (
                f"{count} of its results in {policy.window_days:g} days differ from other hosts', "
                "or claim more time than has passed"
            )
            await _quarantine(connection, config, host_id, reason)


async def _quarantine(connection: Connection, config: Config, host_id: int, reason: str) -> None:
    await hosts.set_state(connection, host_id, "quarantined", reason)
    withdrawn = await comparisons.withdraw_results(
        connection, host_id, f"this host is quarantined: {reason}",
        config.replication.window_days * DAY_SECONDS,
    )  # fmt: skip
    log.warning("host quarantined", host_id=host_id, reason=reason, withdrawn=withdrawn)


async def place_replicas(connection: Connection, config: Config) -> None:
    """Assign replicas of results that need checking to hosts of other users."""
    policy = config.replication
    found = await comparisons.open_results(connection, ["wanted", "disputed"], policy.trusted_after)
    if not found:
        return
    known = await _versions(connection, found)
    needs, given_up = [], []
    for workunit_id, group in groupby(found, key=lambda r: r.workunit_id):
        results = list(group)
        version = known[results[0].version_id]
        if results[0].tries >= policy.tries or version.state != "active":
            given_up.append(workunit_id)
            continue
        needs.append(
            replicate.Need(
                workunit_id=workunit_id,
                device=results[0].device,
                environment=version.manifest.environment,
                memory_bytes=version.manifest.resources.memory_bytes,
                users=frozenset(o.user_id for o in results),
                purpose="tiebreak" if len(results) > 1 else "replica",
            )
        )
    live = await comparisons.replica_hosts(
        connection, config.deploy.live_minutes * 60, policy.trusted_after
    )
    placed, unplaced = replicate.place(needs, live)
    versions = {o.workunit_id: o.version_id for o in found}
    await comparisons.queue_replicas(connection, placed, versions, policy.hold_hours * 3600)
    given_up += [need.workunit_id for need in unplaced]
    for need in unplaced:
        if len(need.users) > 2:  # no other user has a host, and no two of three results agree
            version = known[versions[need.workunit_id]]
            await _raise_irreproducible(
                connection, version, len(need.users), "no other host can compute it"
            )
    if given_up:
        await comparisons.set_state(
            connection, given_up, "given_up", "no other user's live host could compute it"
        )


async def stop_faulty_experiments(connection: Connection, config: Config) -> None:
    """Stop experiments that fail too often, run too long, or ignore their seed."""
    since = max(WATCH_SECONDS, WATCH_ROUNDS * config.serve.round_seconds)
    for version_id in await tasks.versions_reported_since(connection, since):
        alarm = await _find_alarm(connection, config, version_id)
        if alarm and await alarms.raise_alarm(connection, version_id, alarm.kind, alarm.message):
            withdrawn = await experiments.set_state(
                connection, version_id, "stopped", alarm.message
            )
            await hosts.reset_failures(connection, version_id)
            log.error("experiment stopped", version_id=version_id, reason=alarm.message,
                      withdrawn=withdrawn)  # fmt: skip


async def _find_alarm(
    connection: Connection, config: Config, version_id: int
) -> watchdog.Alarm | None:
    """The alarm to raise for a version, if any; hosts at fault instead are quarantined."""
    recent = await tasks.recently_ended(connection, version_id)
    alarm = watchdog.watch(recent)
    if alarm is not None:
        longer_running = await tasks.hosts_running_longer(
            connection, version_id, alarm.outlived_after_seconds
        )
        failing = alarm.kind == "error_rate"
        newest_faults = await tasks.newest_faults(connection, version_id) if failing else None
        if not watchdog.is_of_hosts(alarm, recent, longer_running, newest_faults):
            return alarm
    twins = await tasks.twins(connection, version_id)
    if not twins:
        return None
    live = await hosts.live_users(connection, config.deploy.live_minutes * 60)
    company = await tasks.company(connection, version_id, len(live))
    suspects, alarm = watchdog.same_results(twins, company)
    for host_id in suspects:
        await _quarantine(
            connection, config, host_id, "it returned the same numbers for different seeds"
        )
    return alarm


async def _versions(connection: Connection, found: list[OpenRow]) -> dict[int, VersionRow]:
    ids = sorted({r.version_id for r in found})
    return {v.version_id: v for v in await experiments.versions_by_id(connection, ids)}
