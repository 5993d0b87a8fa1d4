"""The periodic work of a serving process: leases, comparisons, replicas, watchdog, signatures.

Any number of processes may run it: a round takes an advisory lock, and a process that cannot get
the lock skips the round.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import psycopg
import structlog

from axiom_server.config import Config
from axiom_server.decide import watchdog
from axiom_server.errors import ServerError
from axiom_server.maintenance import comparison
from axiom_server.review import seed_budgets, studies
from axiom_server.store import (
    alarms,
    experiments,
    hosts,
    session_sums,
    standing,
    statistics,
    tasks,
)
from axiom_server.store.database import Connection, Pool, row
from axiom_server.store.owner_locks import lock_accounts
from axiom_server.trust.keys import KeysError
from axiom_server.trust.metadata import BundlesError
from axiom_server.trust.repository import Repository

ROUND_LOCK = 0x726F756E6473  # "rounds"
SIGN_SECONDS = 600.0  # the timestamp must be signed again every hour
POOL_SECONDS = 5.0  # wait for a connection; after that the database counts as down
WATCH_SECONDS = 60.0  # versions with reports this recent are examined
WATCH_ROUNDS = 12  # ... or within this many rounds, if those take longer

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
            except Exception:  # reported; a fault in one round must not end all others
                log.exception("maintenance round failed; it will be repeated")

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
        started = True  # hosts may have seen newer signatures than those of restored files
        while True:
            try:
                await asyncio.to_thread(self.bundles.refresh_online, force=started)
                started = False
            except (BundlesError, KeysError, OSError) as error:
                log.error("the bundles could not be re-signed", error=str(error))
            except Exception:  # reported; hosts need the next signature
                log.exception("the bundles could not be re-signed")
            await asyncio.sleep(SIGN_SECONDS)


@asynccontextmanager
async def _alone(connection: Connection) -> AsyncIterator[bool]:
    """Begin a transaction; yields whether no other process runs a round."""
    async with connection.transaction():
        locked = await row(connection, "SELECT pg_try_advisory_xact_lock(%s)", (ROUND_LOCK,))
        yield bool(locked[0])


async def run_round(connection: Connection, config: Config) -> bool:
    """Run one round, in short transactions; False when another process is running one."""
    for step in ROUND_STEPS:
        async with _alone(connection) as alone:
            if not alone:
                return False
            await step(connection, config)
    return True


async def expire_leases(connection: Connection, config: Config) -> None:
    """End overdue leases and reservations."""
    expired = await tasks.expire(connection, config.lease.silent_hours * 3600)
    held_hours = max(config.deploy.hold_hours, config.replication.hold_hours)
    released = await tasks.release_held(connection, held_hours * 3600)
    if expired or released:
        log.info("leases expired or released", expired=expired, released=released)


async def count_unconfirmed(connection: Connection, _config: Config) -> None:
    """Count the results of each account that wait for confirmation."""
    await standing.count_unconfirmed(connection)


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
    """The alarm to raise for a version, if any. If hosts are at fault, they are quarantined."""
    recent = await tasks.recently_ended(connection, version_id, known=True)
    known = bool(recent)  # False: so far only newcomers have computed it
    if not known:
        recent = await tasks.recently_ended(connection, version_id, known=False)
    alarm = watchdog.watch(recent, known=known)
    if alarm is not None:
        longer_running = await tasks.accounts_running_longer(
            connection, version_id, alarm.outlived_after_seconds, known
        )
        failing = alarm.kind == "error_rate"
        newest_faults = await tasks.newest_faults(connection, version_id, known) if failing else {}
        if not watchdog.blames_accounts(alarm, recent, longer_running, newest_faults):
            return alarm
    same_numbers = await tasks.same_numbers(connection, version_id, known)
    if not same_numbers:
        return None
    live = await hosts.live_users(connection, config.deploy.live_minutes * 60)
    other_users = await tasks.other_users(connection, version_id, len(live), known)
    suspects, alarm = watchdog.judge_same_numbers(same_numbers, other_users)
    await lock_accounts(connection, suspects, ())
    for host_id in suspects:
        await comparison.quarantine(
            connection, host_id, "it returned the same numbers for different seeds"
        )
    return alarm


async def issue_seeds(connection: Connection, _config: Config) -> None:
    """Take the next steps of studies and seed budgets."""
    await studies.advance_all(connection)
    await seed_budgets.spend(connection)


async def summarise(connection: Connection, _config: Config) -> None:
    """Store the sums that the pages and the statistics show."""
    await session_sums.add_deployments(connection)
    await statistics.refresh(connection)


#: Each step is a transaction: what it locks is free for syncs before the next one begins.
ROUND_STEPS: tuple[Callable[[Connection, Config], Awaitable[None]], ...] = (
    expire_leases,
    comparison.compare_and_place,
    count_unconfirmed,
    comparison.quarantine_hosts,
    comparison.quarantine_accounts,
    stop_faulty_experiments,
    issue_seeds,
    summarise,
)
