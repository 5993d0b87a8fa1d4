"""The periodic work of a serving process: expire, release, compare, place, watch, re-sign.

Any number of processes may run it: a round takes an advisory lock, and who does not get it skips.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import groupby

import psycopg
import structlog

from axiom_server.bundles import Repository
from axiom_server.config import Config
from axiom_server.decide import replicate, validate, watchdog
from axiom_server.errors import ServerError
from axiom_server.keys import KeysError
from axiom_server.metadata import BundlesError
from axiom_server.store import alarms, comparisons, experiments, hosts, tasks
from axiom_server.store.comparisons import OpenRow
from axiom_server.store.database import Connection, Pool, row
from axiom_server.store.experiments import VersionRow

ROUND_LOCK = 0x726F756E6473  # "rounds"
SIGN_SECONDS = 600.0  # oftener than the hour that the timestamp asks for
POOL_SECONDS = 5.0  # to wait for a connection before the database is taken for gone
WATCH_SECONDS = 60.0  # versions with reports this recent are looked at

log = structlog.get_logger()


@dataclass(kw_only=True)
class Rounds:
    """One per serving process."""

    pool: Pool
    config: Config
    bundles: Repository
    revive: Callable[[], object] | None = None  # starts the database again, where it is our own

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Make rounds for as long as the block lasts."""
        works = [asyncio.create_task(self._turn()), asyncio.create_task(self._sign())]
        try:
            yield
        finally:
            for work in works:
                work.cancel()
            await asyncio.gather(*works, return_exceptions=True)

    async def _turn(self) -> None:
        while True:
            await asyncio.sleep(self.config.serve.round_seconds)
            try:
                async with self.pool.connection(timeout=POOL_SECONDS) as connection:
                    await once(connection, self.config)
            except psycopg.OperationalError as error:
                log.warning("round failed; it is made again", error=str(error).strip())
                await self._revive()

    async def _revive(self) -> None:
        """Our own PostgreSQL was killed, for want of memory perhaps: start it again."""
        if self.revive is None:
            return
        try:
            await asyncio.to_thread(self.revive)
            await self.pool.check()
        except (ServerError, psycopg.OperationalError) as error:
            log.error("the database does not start", error=str(error))

    async def _sign(self) -> None:
        while True:
            try:
                await asyncio.to_thread(self.bundles.refresh_online)
            except (BundlesError, KeysError, OSError) as error:
                log.error("the bundles could not be re-signed", error=str(error))
            await asyncio.sleep(SIGN_SECONDS)


async def once(connection: Connection, config: Config) -> bool:
    """One round, in short transactions; False when another process is making one."""
    async with connection.transaction():
        if not (await row(connection, "SELECT pg_try_advisory_xact_lock(%s)", (ROUND_LOCK,)))[0]:
            return False
        expired = await tasks.expire(connection)
        released = await tasks.release_held(connection)
    if expired or released:
        log.info("leases", expired=expired, released=released)
    async with connection.transaction():
        if not (await row(connection, "SELECT pg_try_advisory_xact_lock(%s)", (ROUND_LOCK,)))[0]:
            return False
        await compare(connection, config)
        await place(connection, config)
        await watch(connection)
    return True


async def compare(connection: Connection, config: Config) -> None:
    """Hold results of one seed against each other where the other opinion has come."""
    found = await comparisons.answered(connection)
    known = await _versions(connection, found)
    for workunit_id, group in groupby(found, key=lambda r: r.workunit_id):
        opinions = list(group)
        if len(opinions) < 2:  # the other opinion failed: ask somebody else
            await comparisons.set_state(connection, [workunit_id], "wanted")
            continue
        decision = validate.compare(
            known[opinions[0].version_id].manifest,
            [
                validate.Opinion(task_id=o.task_id, host_id=o.host_id, result=o.result)
                for o in opinions
            ],
        )
        if decision.verdict == "disputed":
            await comparisons.set_state(connection, [workunit_id], "disputed", decision.note)
        elif decision.verdict == "unsettled":
            await comparisons.set_state(connection, [workunit_id], "given_up", decision.note)
            version = known[opinions[0].version_id]
            await alarms.raise_alarm(
                connection, version.version_id, "irreproducible",
                f"three hosts gave three results for one seed: {decision.note}",
            )  # fmt: skip
        else:
            await comparisons.agree(connection, decision.agreeing)
            state = "settled" if decision.outliers else "agreed"
            await comparisons.set_state(connection, [workunit_id], state)
            if decision.outliers:
                await _charge(connection, config, decision)


async def _charge(
    connection: Connection, config: Config, decision: validate.ComparisonDecision
) -> None:
    await comparisons.disagree(connection, decision.outliers)
    policy = config.replication
    counts = await comparisons.mismatches_of(
        connection, [task for task, _ in decision.outliers], policy.window_days * 86400
    )
    for host_id, count in sorted(counts.items()):
        if replicate.quarantines(policy, count):
            reason = (
                f"{count} of its results in {policy.window_days:g} days differ from other hosts'"
            )
            await hosts.set_state(connection, host_id, "quarantined", reason)
            log.warning("host quarantined", host_id=host_id, reason=reason)


async def place(connection: Connection, config: Config) -> None:
    """Send results that need another opinion to hosts of other users."""
    found = await comparisons.open_results(connection, ["wanted", "disputed"])
    if not found:
        return
    known = await _versions(connection, found)
    needs, given_up = [], []
    for workunit_id, group in groupby(found, key=lambda r: r.workunit_id):
        opinions = list(group)
        if opinions[0].tries >= config.replication.tries:
            given_up.append(workunit_id)
            continue
        manifest = known[opinions[0].version_id].manifest
        needs.append(
            replicate.Need(
                workunit_id=workunit_id,
                device=opinions[0].device,
                environment=manifest.environment,
                memory_bytes=manifest.resources.memory_bytes,
                users=frozenset(o.user_id for o in opinions),
                purpose="tiebreak" if len(opinions) > 1 else "replica",
            )
        )
    live = await comparisons.live_opinions(
        connection, config.deploy.live_minutes * 60, config.replication.trusted_after
    )
    placed, nowhere = replicate.place(needs, live)
    versions = {o.workunit_id: o.version_id for o in found}
    await comparisons.place(connection, placed, versions, config.replication.hold_hours * 3600)
    given_up += [need.workunit_id for need in nowhere]
    if given_up:
        await comparisons.set_state(
            connection, given_up, "given_up", "no other user's live host could compute it"
        )


async def watch(connection: Connection) -> None:
    """Stop experiments that fail too often, run too long, or ignore their seed."""
    for version_id in await tasks.newly_reported(connection, WATCH_SECONDS):
        alarm = watchdog.watch(await tasks.recent(connection, version_id))
        if alarm is None:
            suspects, alarm = watchdog.same_results(*await tasks.twins(connection, version_id))
            for host_id in suspects:
                await hosts.set_state(
                    connection, host_id, "quarantined",
                    "it returned the very same numbers for different seeds",
                )  # fmt: skip
        if alarm and await alarms.raise_alarm(connection, version_id, alarm.kind, alarm.message):
            withdrawn = await experiments.set_state(
                connection, version_id, "stopped", alarm.message
            )
            await connection.execute(
                """UPDATE hosts SET failing = 0 WHERE host_id IN (
                       SELECT host_id FROM tasks WHERE version_id = %s AND ended_at IS NOT NULL)
                     AND failing > 0""",
                (version_id,),
            )
            log.error("experiment stopped", version_id=version_id, reason=alarm.message,
                      withdrawn=withdrawn)  # fmt: skip


async def _versions(connection: Connection, found: list[OpenRow]) -> dict[int, VersionRow]:
    ids = sorted({r.version_id for r in found})
    return {v.version_id: v for v in await experiments.versions_by_id(connection, ids)}
