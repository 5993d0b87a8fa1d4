"""Leases: offer waiting workunits, and lease those that were chosen to hosts."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from msgspec import Struct

from axiom_server.store.database import Connection, as_json

USER_LOCK = 0x75736572  # "user"


class CandidateRow(NamedTuple):
    """A queued workunit, locked until the transaction ends.

    ``host_id``: the host that it is reserved for; None for any host.
    """

    queue_id: int
    host_id: int | None
    workunit_id: int
    version_id: int
    device: str
    purpose: str
    parameters_id: int
    seed: int
    attempt: int = 1
    previous_hosts: Sequence[int] = ()  # hosts that lost or failed it, if other hosts could have it


class Lease(Struct, frozen=True, kw_only=True):
    """A workunit leased to a host; fields are named as LEASE_TO_HOSTS reads them.

    ``request``: id of the sync request that is answered with it.
    """

    queue_id: int
    experiment_id: int
    host_id: int
    user_id: int | None
    request: str
    seconds: float


# Lists are passed as one JSON parameter: psycopg needs 170 us to write the eight arrays of one row,
# and 20 us to pass a text. LATERAL with OFFSET 0 makes one index look-up for each row, whatever the
# planner estimates.

RESERVED_WORKUNITS = """
SELECT q.queue_id, q.host_id, q.workunit_id, q.version_id, q.device, q.purpose,
       w.parameters_id, w.seed
FROM json_to_recordset(%s::json) AS want (host_id bigint, device text, row_limit int)
CROSS JOIN LATERAL (
    SELECT * FROM queue
    WHERE host_id = want.host_id AND device = want.device
    ORDER BY place LIMIT want.row_limit FOR UPDATE SKIP LOCKED
) q
CROSS JOIN LATERAL (
    SELECT parameters_id, seed FROM workunits WHERE workunit_id = q.workunit_id OFFSET 0
) w
ORDER BY q.queue_id"""


#: SQL: host ``h`` has synced since it joined. One whose agent never got the answer to its joining,
#: and joined again as another host, has not, and never will.
HAS_SYNCED = "h.last_seen_at <> h.created_at"

#: Hosts that had a workunit and did not complete it. No host is listed for a workunit whose last
#: attempt ended a day ago, or that no other live host could have: then any host may have it.
PREVIOUS_HOSTS = f"""
SELECT w, ARRAY(SELECT t.host_id FROM tasks t WHERE t.workunit_id = w)
FROM unnest(%s::bigint[]) w
WHERE EXISTS (SELECT FROM tasks t WHERE t.workunit_id = w
              AND t.ended_at > now() - interval '1 day')
  AND EXISTS (SELECT FROM hosts h WHERE h.state = 'active'
              AND h.last_seen_at > now() - interval '1 hour' AND {HAS_SYNCED} AND NOT EXISTS (
                  SELECT FROM tasks t WHERE t.workunit_id = w AND t.host_id = h.host_id))"""

POOL_WORKUNITS = """
SELECT q.queue_id, q.host_id, q.workunit_id, q.version_id, q.device, q.purpose,
       w.parameters_id, w.seed, q.attempt
FROM json_to_recordset(%s::json)
     AS want (version_id bigint, device text, start bigint, row_limit int)
CROSS JOIN LATERAL (
    SELECT * FROM queue
    WHERE host_id IS NULL AND version_id = want.version_id AND device = want.device
      AND place >= want.start
    ORDER BY place LIMIT want.row_limit FOR UPDATE SKIP LOCKED
) q
CROSS JOIN LATERAL (
    SELECT parameters_id, seed FROM workunits WHERE workunit_id = q.workunit_id OFFSET 0
) w
ORDER BY q.queue_id"""


LEASE_TO_HOSTS = """
WITH gone AS (
    DELETE FROM queue q
    USING json_to_recordset(%(leases)s::json) AS l (
        queue_id bigint, experiment_id bigint, host_id bigint, user_id bigint, request text,
        seconds float8)
    WHERE q.queue_id = l.queue_id
    RETURNING q.queue_id, q.workunit_id, l.experiment_id, q.version_id, l.host_id, l.user_id,
              q.device, q.purpose, q.attempt, l.request, l.seconds
)
INSERT INTO tasks (workunit_id, experiment_id, version_id, host_id, user_id, device, purpose,
                   attempt, state, granted_at, deadline_at, granted_by)
SELECT workunit_id, experiment_id, version_id, host_id, user_id, device, purpose, attempt,
       'leased', %(now)s, %(now)s + seconds * interval '1 second', request
FROM gone ORDER BY queue_id
RETURNING task_id, workunit_id, purpose"""


async def leased_by_users(connection: Connection, users: list[int]) -> dict[int | None, int]:
    """Leased tasks of each user, over all hosts of the user.

    Locks the users, so that no other transaction leases to them until this one ends.
    """
    await connection.execute(
        """SELECT pg_advisory_xact_lock(%s, (u %% 2147483648)::int)
           FROM unnest(%s::bigint[]) u ORDER BY u""",
        (USER_LOCK, sorted(users)),
    )
    cursor = await connection.execute(
        """SELECT h.user_id, count(*) FROM tasks t JOIN hosts h USING (host_id)
           WHERE h.user_id = ANY(%s) AND t.state = 'leased' GROUP BY h.user_id""",
        (users,),
    )
    return dict(await cursor.fetchall())


async def reserved_workunits(
    connection: Connection, wanted: Sequence[tuple[int, str, int]]
) -> list[CandidateRow]:
    """Lock workunits that are reserved for hosts: ``(host, device, limit)``."""
    wants = [{"host_id": h, "device": d, "row_limit": m} for h, d, m in wanted]
    cursor = await connection.execute(RESERVED_WORKUNITS, (as_json(wants),))
    return [CandidateRow(*row) for row in await cursor.fetchall()]


async def pool_workunits(
    connection: Connection, wanted: Sequence[tuple[int, str, int, int]]
) -> list[CandidateRow]:
    """Lock workunits that wait for any host: ``(version, device, first place, limit)``."""
    wants = [{"version_id": v, "device": d, "start": f, "row_limit": m} for v, d, f, m in wanted]
    cursor = await connection.execute(POOL_WORKUNITS, (as_json(wants),))
    found = [CandidateRow(*row) for row in await cursor.fetchall()]
    again = [c.workunit_id for c in found if c.attempt > 1]
    if not again:
        return found
    cursor = await connection.execute(PREVIOUS_HOSTS, (again,))
    previous_hosts: dict[int, list[int]] = dict(await cursor.fetchall())
    return [c._replace(previous_hosts=previous_hosts.get(c.workunit_id, ())) for c in found]


async def lease_to_hosts(
    connection: Connection, leases: Sequence[Lease], now: datetime
) -> dict[tuple[int, str], int]:
    """Turn queued workunits into leased tasks; (workunit, purpose) -> task id."""
    cursor = await connection.execute(LEASE_TO_HOSTS, {"leases": as_json(leases), "now": now})
    return {(workunit, purpose): task for task, workunit, purpose in await cursor.fetchall()}
