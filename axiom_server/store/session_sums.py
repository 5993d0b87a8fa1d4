"""What a session's page shows, summed up by the review and by deployments.

sessions.sums holds, of the session's ledger entries: "users" (how many volunteers earned),
"experiments" (results by experiment's id) and "no_owner" (results, credit, hosts and first_hosts of
hosts without an owner; null where there is none); of its deployments, "deployed" (DeployedTotals).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from msgspec import Struct

from axiom_server.store.database import Connection, row, rows

SUM_LOCK = 0x73756D73  # "sums": one transaction adds up deployments at a time


class Earner(NamedTuple):
    """What a volunteer who shows himself earned in a session."""

    user_id: int
    name: str
    credit: float
    results: int
    hosts: int
    first_hosts: list[int]


class DeployedHost(NamedTuple):
    """Workunits deployed to one host, by device."""

    host_id: int
    name: str
    user: str
    cpu: int
    gpu: int


class DeployedVersion(NamedTuple):
    """Workunits deployed of one version. ``parameters``: the sets, where it is new."""

    version_id: int
    workunits: int
    new: bool
    parameters: list[dict[str, Any]] | None


class DeployedTotals(Struct, frozen=True):
    """What a session's deployments made, and gave to hosts."""

    hosts: int = 0
    cpu: int = 0
    gpu: int = 0
    with_gpu: int = 0
    workunits: int = 0

    @property
    def pool(self) -> int:
        """Workunits for any host."""
        return self.workunits - self.cpu - self.gpu


async def record_credit(connection: Connection, session_id: int) -> None:
    """Sum up a session's ledger entries, in the caller's transaction."""
    await connection.execute(
        """UPDATE sessions SET sums = sums || jsonb_build_object(
               'users', (SELECT count(*) FROM user_sessions WHERE session_id = %(session)s),
               'experiments', COALESCE((SELECT jsonb_object_agg(experiment_id, n) FROM (
                   SELECT experiment_id, count(*) AS n FROM credit
                   WHERE session_id = %(session)s GROUP BY 1) e), '{}'),
               'no_owner', (SELECT jsonb_build_object(
                   'results', count(*), 'credit', sum(amount), 'hosts', count(DISTINCT host_id),
                   'first_hosts', to_jsonb((array_agg(DISTINCT host_id))[1:3]))
                   FROM credit WHERE session_id = %(session)s AND user_id IS NULL
                   HAVING count(*) > 0))
           WHERE session_id = %(session)s""",
        {"session": session_id},
    )


async def add_deployments(connection: Connection) -> int:
    """Add up the sessions' deployments that are not yet; how many there were.

    Nothing is done while another transaction does it: the periodic work comes by again.
    """
    if not (await row(connection, "SELECT pg_try_advisory_xact_lock(%s)", (SUM_LOCK,)))[0]:
        return 0
    found = await rows(
        connection,
        """UPDATE deployments SET summed = true WHERE deployment_id IN (
               SELECT deployment_id FROM deployments
               WHERE NOT summed AND session_id IS NOT NULL ORDER BY 1)
           RETURNING deployment_id""",
    )
    ids = sorted(int(r[0]) for r in found)
    if ids:
        await _add_hosts(connection, ids)
        await _add_versions(connection, ids)
        await _total(connection, ids)
    return len(ids)


async def _add_hosts(connection: Connection, deployments: list[int]) -> None:
    await connection.execute(
        """INSERT INTO session_hosts AS t
           SELECT session_id, (h ->> 0)::bigint, sum((h ->> 1)::bigint), sum((h ->> 2)::bigint)
           FROM deployments, jsonb_array_elements(record -> 'hosts') h
           WHERE deployment_id = ANY(%s) GROUP BY 1, 2
           ON CONFLICT (session_id, host_id) DO UPDATE
               SET cpu = t.cpu + excluded.cpu, gpu = t.gpu + excluded.gpu""",
        (deployments,),
    )


async def _add_versions(connection: Connection, deployments: list[int]) -> None:
    await connection.execute(
        """INSERT INTO session_experiments AS t
           SELECT session_id, (e ->> 'version_id')::bigint, min(deployment_id),
                  sum((e ->> 'workunits')::bigint), bool_or((e ->> 'new')::boolean),
                  (array_agg(record -> 'parameters' ORDER BY deployment_id)
                   FILTER (WHERE (e ->> 'new')::boolean))[1]
           FROM deployments, jsonb_array_elements(record -> 'experiments') e
           WHERE deployment_id = ANY(%s) GROUP BY 1, 2
           ON CONFLICT (session_id, version_id) DO UPDATE
               SET workunits = t.workunits + excluded.workunits, new = t.new OR excluded.new,
                   parameters = COALESCE(t.parameters, excluded.parameters)""",
        (deployments,),
    )


async def _total(connection: Connection, deployments: list[int]) -> None:
    await connection.execute(
        """UPDATE sessions s SET sums = sums || jsonb_build_object('deployed', (
               SELECT jsonb_build_object('hosts', count(*), 'cpu', COALESCE(sum(cpu), 0),
                   'gpu', COALESCE(sum(gpu), 0), 'with_gpu', count(*) FILTER (WHERE gpu > 0),
                   'workunits', (SELECT COALESCE(sum(workunits), 0) FROM session_experiments e
                                 WHERE e.session_id = s.session_id))
               FROM session_hosts h WHERE h.session_id = s.session_id))
           WHERE session_id IN (
               SELECT session_id FROM deployments WHERE deployment_id = ANY(%s))""",
        (deployments,),
    )


async def sums(connection: Connection, session_id: int) -> dict[str, Any]:
    """What ``record_credit`` stored, experiments by name."""
    found = await row(
        connection,
        """SELECT s.sums, COALESCE((
               SELECT jsonb_object_agg(e.name, s.sums -> 'experiments' -> e.experiment_id::text)
               FROM experiments e WHERE s.sums -> 'experiments' ? e.experiment_id::text), '{}')
           FROM sessions s WHERE session_id = %s""",
        (session_id,),
    )
    return {"users": 0, "no_owner": None, "deployed": {}, **found[0], "experiments": found[1]}


async def earners(
    connection: Connection, session_id: int, limit: int, offset: int = 0
) -> list[Earner]:
    """Volunteers by what they earned in a session; those who are hidden leave a gap."""
    found = await rows(
        connection,
        """SELECT u.user_id, u.name, s.credit::float8, s.results, s.hosts, s.first_hosts
           FROM (SELECT * FROM user_sessions WHERE session_id = %s
                 ORDER BY credit DESC, user_id LIMIT %s OFFSET %s) s JOIN users u USING (user_id)
           WHERE u.shown ORDER BY s.credit DESC, s.user_id""",
        (session_id, limit, offset),
    )
    return [Earner._make(r) for r in found]


async def deployed_hosts(
    connection: Connection, session_id: int, limit: int, offset: int = 0
) -> list[DeployedHost]:
    """Hosts by the workunits that a session's deployments gave them."""
    found = await rows(
        connection,
        """SELECT s.host_id, CASE WHEN u.shown IS FALSE THEN '(hidden)' ELSE h.name END,
                  CASE WHEN u.shown THEN u.name WHEN u.shown IS FALSE THEN '(hidden)' ELSE '' END,
                  s.cpu, s.gpu
           FROM (SELECT * FROM session_hosts WHERE session_id = %s
                 ORDER BY cpu + gpu DESC, host_id LIMIT %s OFFSET %s) s
           JOIN hosts h USING (host_id) LEFT JOIN users u USING (user_id)
           ORDER BY s.cpu + s.gpu DESC, s.host_id""",
        (session_id, limit, offset),
    )
    return [DeployedHost._make(r) for r in found]


async def deployed_versions(connection: Connection, session_id: int) -> list[DeployedVersion]:
    """Versions in the order in which a session first deployed them."""
    found = await rows(
        connection,
        """SELECT version_id, workunits, new, parameters FROM session_experiments
           WHERE session_id = %s ORDER BY deployment_id, version_id""",
        (session_id,),
    )
    return [DeployedVersion._make(r) for r in found]


#: The whole tables behind a session's page, with the types of their columns in DuckDB.
CREDIT_COLUMNS = {
    "user_id": "BIGINT", "name": "VARCHAR", "credit": "DOUBLE", "results": "BIGINT",
    "hosts": "BIGINT",
}  # fmt: skip
CREDIT = """SELECT u.user_id, u.name, s.credit, s.results, s.hosts
    FROM user_sessions s JOIN users u USING (user_id) WHERE s.session_id = {session} AND u.shown
    ORDER BY s.credit DESC, s.user_id"""
HOST_COLUMNS = {"host_id": "BIGINT", "cpu": "BIGINT", "gpu": "BIGINT"}
HOSTS = """SELECT host_id, cpu, gpu FROM session_hosts WHERE session_id = {session}
    ORDER BY cpu + gpu DESC, host_id"""
