"""Comparisons of results of one seed: the open ones, their replicas and their outcomes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from axiom_server.decide.lease import FAILS_REPEATEDLY
from axiom_server.decide.replicate import Checker, Panel, ReplicaNeed
from axiom_server.decide.standing import Standing, StandingPolicy, believed_cores, level
from axiom_server.store.database import Connection, row, rows
from axiom_server.store.leases import HAS_SYNCED

COMPARISONS_MAX = 2_000  # comparisons handled in one round
KNOWN_SECONDS = 7 * 86400.0  # hosts seen within this time may come back; replicas wait for them

#: The columns of a host ``h`` and its user ``u`` from which ``make_standing`` makes a ``Standing``.
STANDING = """h.trusted, u.vouched, u.validated, u.agreeing, u.confirmed_by_staff,
    EXTRACT(epoch FROM now() - u.created_at)::float8, h.agreements, u.returned, u.unconfirmed,
    EXTRACT(epoch FROM now() - u.returned_at)::float8"""


class OpenRow(NamedTuple):
    """One result of a workunit whose comparison is open, by a host that is not quarantined.

    ``involved``: users who had a task of the workunit, whatever its outcome, with their
    ``addresses``. ``asked``: the server granted the task in this epoch; false for a task of an
    earlier epoch, of which only the host has a record.
    """

    workunit_id: int
    version_id: int
    device: str
    parameters_id: int
    seed: int
    state: str
    involved: list[int | None]
    addresses: list[str]
    task_id: int
    host_id: int
    user_id: int | None
    address: str
    result: dict[str, Any]
    asked: bool
    standing: Standing


def make_standing(values: Sequence[Any]) -> Standing:
    """The standing in a row of ``STANDING``; hosts without an owner have none."""
    trusted, vouched, validated, agreeing, by_staff, age, streak, *rest = values
    returned, unconfirmed, since_return = rest
    return Standing(
        trusted=trusted, vouched=bool(vouched), validated=validated or 0, agreeing=agreeing or 0,
        confirmed_by_staff=bool(by_staff), age_seconds=age or 0.0, streak=streak,
        returned=returned or 0, unconfirmed=unconfirmed or 0,
        since_return_seconds=math.inf if since_return is None else since_return,
    )  # fmt: skip


async def open_results(connection: Connection) -> list[OpenRow]:
    """Results of workunits under comparison that wait for no replica, by workunit and task.

    If there are many, a random part is returned, so that workunits that no host can compute now do
    not block the others.
    """
    found = await rows(
        connection,
        f"""SELECT c.workunit_id, t.version_id, t.device, w.parameters_id, w.seed, c.state,
                   ARRAY(SELECT DISTINCT a.user_id FROM tasks a
                         WHERE a.workunit_id = c.workunit_id ORDER BY 1),
                   ARRAY(SELECT DISTINCT b.address FROM tasks a JOIN users b USING (user_id)
                         WHERE a.workunit_id = c.workunit_id AND b.address <> '' ORDER BY 1),
                   t.task_id, t.host_id, t.user_id, COALESCE(u.address, ''), r.result,
                   NOT EXISTS (SELECT FROM recovered_tasks x WHERE x.host_id = t.host_id
                               AND x.task_id = t.task_id), {STANDING}
            FROM (SELECT * FROM comparisons p WHERE state IN ('wanted', 'placed', 'disputed')
                    AND NOT EXISTS (SELECT FROM queue q WHERE q.workunit_id = p.workunit_id)
                    AND NOT EXISTS (SELECT FROM tasks l WHERE l.workunit_id = p.workunit_id
                                    AND l.state = 'leased')
                  ORDER BY random() LIMIT {COMPARISONS_MAX} FOR UPDATE SKIP LOCKED) c
            JOIN workunits w USING (workunit_id)
            JOIN tasks t USING (workunit_id) JOIN results r ON r.task_id = t.task_id
            JOIN hosts h ON h.host_id = t.host_id LEFT JOIN users u ON u.user_id = t.user_id
            WHERE h.state = 'active'
            ORDER BY c.workunit_id, t.task_id""",
    )
    return [OpenRow._make((*r[:14], make_standing(r[14:]))) for r in found]


#: SQL: host ``h`` may compute replicas, now or when it is back.
_MAY_CHECK = f"""h.state = 'active' AND NOT h.imported AND h.cpu_cores > 0
    AND h.last_seen_at > now() - {KNOWN_SECONDS} * interval '1 second'"""
#: SQL: the accounts of such hosts, and whether they fulfil those conditions of a judge that only
#: others can (see ``standing.level``).
_ACCOUNTS = f"""accounts AS MATERIALIZED (
    SELECT u.user_id, bool_or(h.trusted) OR u.confirmed_by_staff OR u.agreeing >= %(agreeing)s
        AS may_judge
    FROM hosts h JOIN users u USING (user_id) WHERE {_MAY_CHECK} GROUP BY u.user_id
)"""
#: SQL: so many of those accounts that may judge, and so many of all.
_CHOSEN = """(SELECT user_id FROM accounts WHERE may_judge ORDER BY random() LIMIT %(most)s)
    UNION (SELECT user_id FROM accounts ORDER BY random() LIMIT %(most)s)"""


async def load_panel(
    connection: Connection, policy: StandingPolicy, live_seconds: float, accounts_max: int
) -> Panel:
    """Hosts that could compute a replica, now or when they are back, each with a random rank.

    If there are more than ``accounts_max`` accounts, the hosts of so many that are drawn at random
    from all, and of so many that are drawn from those that may judge.
    """
    values = {"live": live_seconds, "agreeing": policy.judge_accounts, "most": accounts_max}
    count, judges = await row(
        connection,
        f"WITH {_ACCOUNTS} SELECT count(*), count(*) FILTER (WHERE may_judge) FROM accounts",
        values,
    )
    complete = count <= accounts_max
    found = await rows(
        connection,
        f"""WITH waiting AS (
                SELECT host_id, count(*) AS waiting FROM queue
                WHERE host_id IS NOT NULL AND purpose <> 'first' GROUP BY host_id
            ) {"" if complete else f", {_ACCOUNTS}, chosen AS ({_CHOSEN})"}
            SELECT h.host_id, h.user_id, h.cpu_cores, h.gpus, h.memory_bytes, h.environments,
                   u.address, h.draining = '' AND h.failing < {FAILS_REPEATEDLY} AND {HAS_SYNCED}
                       AND h.last_seen_at > now() - %(live)s * interval '1 second',
                   COALESCE(q.waiting, 0), random(), {STANDING}
            FROM hosts h JOIN users u USING (user_id)
            LEFT JOIN waiting q USING (host_id)
            WHERE {_MAY_CHECK} {"" if complete else "AND h.user_id IN (SELECT * FROM chosen)"}
            ORDER BY h.host_id""",
        values,
    )
    checkers = [_checker(policy, *r) for r in found]
    return Panel(policy, checkers, complete=complete, every_judge=judges <= accounts_max)


def _checker(
    policy: StandingPolicy, host: int, user: int, cores: int, gpus: int, memory: int,
    environments: Sequence[str], address: str, live: bool, waiting: int, rank: float, *values: Any,
) -> Checker:  # fmt: skip
    standing = make_standing(values)
    believed = believed_cores(policy, standing)
    return Checker(
        host_id=host, user_id=user, gpus=gpus, memory_bytes=memory,
        slots=cores + gpus if believed is None else min(cores + gpus, believed),
        environments=frozenset(environments), level=level(policy, standing),
        address=address, live=live, waiting=waiting, rank=rank,
    )  # fmt: skip


async def queue_replicas(
    connection: Connection,
    placed: Sequence[tuple[ReplicaNeed, int]],
    versions: dict[int, int],
    hold_seconds: float,
) -> None:
    """Queue replicas, reserved for the hosts chosen. ``versions``: workunit -> version."""
    if not placed:
        return
    purposes = [
        ("tiebreak" if need.disputed else "replica") + (f"_{count}" if count > 1 else "")
        for need, count in _numbered(placed)
    ]
    await connection.execute(
        """INSERT INTO queue (workunit_id, version_id, device, host_id, purpose, release_at)
           SELECT *, now() + %s * interval '1 second'
           FROM unnest(%s::bigint[], %s::bigint[], %s::text[], %s::bigint[], %s::text[])
           ON CONFLICT (workunit_id, purpose) DO NOTHING""",
        (
            hold_seconds,
            [need.workunit_id for need, _ in placed],
            [versions[need.workunit_id] for need, _ in placed],
            [need.device for need, _ in placed],
            [host for _, host in placed],
            purposes,
        ),
    )
    waiting = {disputed: [n.workunit_id for n, _ in placed if n.disputed is disputed]
               for disputed in (False, True)}  # fmt: skip
    await set_state(connection, waiting[False], "placed")
    await set_state(connection, waiting[True], "placed", "hosts disagree")


def _numbered(placed: Sequence[tuple[ReplicaNeed, int]]) -> list[tuple[ReplicaNeed, int]]:
    """Each need, with the number of its replica, counted from 1."""
    counts: dict[int, int] = {}
    numbered = []
    for need, _ in placed:
        counts[need.workunit_id] = counts.get(need.workunit_id, 0) + 1
        numbered.append((need, counts[need.workunit_id]))
    return numbered


async def queue_checks(connection: Connection, hosts: Sequence[int], hold_seconds: float) -> int:
    """Queue for each host a workunit that a trusted host has computed. It looks like any other.

    Returns how many. A host gets none if its account has one in hand, or has computed them all.
    """
    found = await rows(
        connection,
        """WITH candidates AS (
               SELECT host_id, user_id, environments, memory_bytes FROM hosts
               WHERE host_id = ANY(%(hosts)s) AND NOT EXISTS (
                   SELECT FROM queue q JOIN hosts o ON o.host_id = q.host_id
                   WHERE q.purpose = 'check' AND o.user_id = hosts.user_id
               ) AND NOT EXISTS (
                   SELECT FROM tasks t JOIN hosts o USING (host_id)
                   WHERE t.state = 'leased' AND t.purpose = 'check' AND o.user_id = hosts.user_id)
           ), known AS (
               SELECT t.workunit_id, t.version_id, t.device, v.manifest FROM hosts s
               JOIN tasks t USING (host_id) JOIN results r USING (task_id)
               JOIN versions v ON v.version_id = t.version_id
               WHERE s.trusted AND s.state = 'active' AND v.state = 'active' AND t.device = 'cpu'
               ORDER BY random() LIMIT 200
           ), offered AS (  -- each workunit to one account only
               SELECT DISTINCT ON (k.workunit_id) a.user_id, a.host_id, k.workunit_id,
                      k.version_id, k.device
               FROM candidates a CROSS JOIN known k
               WHERE COALESCE((k.manifest -> 'resources' ->> 'memory_bytes')::bigint, 0)
                     <= a.memory_bytes
                 AND NOT EXISTS (SELECT FROM tasks t
                                 WHERE t.workunit_id = k.workunit_id AND t.user_id = a.user_id)
               ORDER BY k.workunit_id, random()
           ), queued AS (
               INSERT INTO queue (workunit_id, version_id, device, host_id, purpose, release_at)
               SELECT DISTINCT ON (user_id) workunit_id, version_id, device, host_id,
                      'check', now() + %(hold)s * interval '1 second'
               FROM offered ORDER BY user_id, random()
               ON CONFLICT (workunit_id, purpose) DO NOTHING
               RETURNING workunit_id
           ), opened AS (
               INSERT INTO comparisons (workunit_id, task_id, state)
               SELECT q.workunit_id, (SELECT min(task_id) FROM results r
                                      WHERE r.workunit_id = q.workunit_id), 'placed' FROM queued q
               ON CONFLICT (workunit_id) DO UPDATE SET state = 'placed'
           )
           SELECT count(*) FROM queued""",
        {"hosts": list(hosts), "hold": hold_seconds},
    )
    return int(found[0][0])


async def set_state(
    connection: Connection, workunits: Sequence[int], state: str, note: str = ""
) -> None:
    """Set the state of comparisons."""
    await connection.execute(
        """UPDATE comparisons SET state = %s, note = %s,
               settled_at = CASE WHEN %s IN ('agreed', 'settled', 'given_up') THEN now() END
           WHERE workunit_id = ANY(%s)""",
        (state, note[:500], state, list(workunits)),
    )


async def refuse_results(connection: Connection, tasks: Sequence[tuple[int, str]]) -> None:
    """Refuse the results of these tasks (task, why): they get no credit and enter no finding."""
    ids, notes = [t for t, _ in tasks], [n for _, n in tasks]
    await connection.execute(
        """UPDATE tasks t
           SET refusal = left('other hosts disagree for the same seed: ' || m.note, 200)
           FROM unnest(%s::bigint[], %s::text[]) AS m (task_id, note)
           WHERE t.task_id = m.task_id""",
        (ids, notes),
    )
    await connection.execute("DELETE FROM results WHERE task_id = ANY(%s)", (ids,))


async def reopen_trusted(connection: Connection, hosts: Sequence[int], seconds: float) -> int:
    """Open comparisons of recent results of these hosts that were not checked; returns how many."""
    found = await rows(
        connection,
        """WITH unchecked AS (
               SELECT r.task_id, r.workunit_id FROM versions v JOIN tasks t USING (version_id)
               JOIN results r USING (task_id) JOIN hosts h ON h.host_id = t.host_id
               WHERE t.host_id = ANY(%s) AND r.validated AND NOT h.trusted
                 AND t.ended_at > now() - %s * interval '1 second' AND v.state = 'active'
                 AND NOT EXISTS (SELECT FROM comparisons c WHERE c.workunit_id = t.workunit_id)
           ), unconfirmed AS (
               UPDATE results r SET validated = false FROM unchecked u WHERE r.task_id = u.task_id
           ), opened AS (
               INSERT INTO comparisons (workunit_id, task_id)
               SELECT workunit_id, task_id FROM unchecked ON CONFLICT DO NOTHING
           )
           SELECT count(*) FROM unchecked""",
        (list(hosts), seconds),
    )
    return int(found[0][0])


async def withdraw_results(
    connection: Connection, hosts: Sequence[int], reason: str, window_seconds: float
) -> int:
    """Delete recent results of quarantined hosts that no active host confirmed; returns how many.

    Tasks not reviewed yet earn nothing. Workunits left without a result are queued again, unless a
    replica of them is being computed. Results of other hosts that these hosts had confirmed are
    compared again, without them.
    """
    found = await rows(
        connection,
        """WITH touched AS (
               SELECT DISTINCT t.workunit_id FROM versions v JOIN tasks t USING (version_id)
               JOIN results r USING (task_id)
               WHERE t.host_id = ANY(%(hosts)s)
                 AND t.ended_at > now() - %(window)s * interval '1 second'
           ), kept AS (
               SELECT r.workunit_id, r.task_id FROM touched JOIN results r USING (workunit_id)
               JOIN tasks t ON t.task_id = r.task_id JOIN hosts h ON h.host_id = t.host_id
               WHERE h.state = 'active'
           ), alone AS (
               SELECT workunit_id FROM touched
               WHERE workunit_id NOT IN (SELECT workunit_id FROM kept)
           ), gone AS (
               DELETE FROM results r USING touched WHERE r.workunit_id = touched.workunit_id
                 AND r.task_id NOT IN (SELECT task_id FROM kept)
               RETURNING r.task_id
           ), refused AS (
               UPDATE tasks t SET refusal = left(%(reason)s, 200) FROM gone
               WHERE t.task_id = gone.task_id AND t.state = 'reported'
           ), unconfirmed AS (
               UPDATE results r SET validated = false FROM kept WHERE r.task_id = kept.task_id
           ), opened AS (
               INSERT INTO comparisons (workunit_id, task_id)
               SELECT DISTINCT ON (workunit_id) workunit_id, task_id FROM kept
               ORDER BY workunit_id, task_id
               ON CONFLICT (workunit_id) DO UPDATE SET state = 'wanted', note = ''
           ), computed AS (
               UPDATE tasks t SET purpose = 'first' FROM alone a
               WHERE t.workunit_id = a.workunit_id AND t.state = 'leased'
               RETURNING t.workunit_id
           ), settled AS (
               DELETE FROM comparisons c USING alone a WHERE c.workunit_id = a.workunit_id
           ), unplaced AS (
               DELETE FROM queue q USING alone a
               WHERE q.workunit_id = a.workunit_id AND q.purpose <> 'first'
           ), again AS (
               INSERT INTO queue (workunit_id, version_id, device)
               SELECT w.workunit_id, w.version_id, w.device
               FROM alone JOIN workunits w USING (workunit_id) JOIN versions v USING (version_id)
               WHERE v.state = 'active'
                 AND workunit_id NOT IN (SELECT workunit_id FROM computed)
               ON CONFLICT DO NOTHING
           )
           SELECT count(*) FROM gone""",
        {"hosts": list(hosts), "reason": reason, "window": window_seconds},
    )
    return int(found[0][0])
