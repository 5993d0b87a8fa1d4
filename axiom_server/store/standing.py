"""Store changes of standing: confirmed results, mismatches, quarantine, and trust by staff."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from axiom_server.store.database import Connection, rows


class SuspectRow(NamedTuple):
    """A host with mismatches in the window and since its last release.

    impossible_times  how many of them are claims of more time than has passed
    compared          results of the host in the window that were compared with other hosts' results
    refuted_by        other accounts whose confirmed results differ from its own
    confirmed_by      other accounts whose confirmed results agree with its own
    """

    host_id: int
    mismatches: int
    impossible_times: int
    compared: int
    refuted_by: int
    confirmed_by: int


class SuspectAccount(NamedTuple):
    """An account with mismatches on several hosts; the other fields are as those of SuspectRow."""

    user_id: int
    mismatches: int
    compared: int
    refuted_by: int
    confirmed_by: int


async def confirm(connection: Connection, groups: Sequence[Sequence[int]]) -> None:
    """Mark agreeing results, by workunit, as confirmed, and raise their accounts' standing."""
    tasks = [task_id for group in groups for task_id in group]
    number = [n for n, group in enumerate(groups) for _ in group]
    await connection.execute(
        """WITH agreed AS (
               SELECT a.n, t.task_id, t.host_id, t.user_id, h.trusted
               FROM unnest(%(tasks)s::bigint[], %(number)s::int[]) AS a (task_id, n)
               JOIN tasks t USING (task_id) JOIN hosts h USING (host_id)
           ), counted AS (
               UPDATE results r SET validated = true FROM agreed a
               WHERE r.task_id = a.task_id AND NOT r.validated RETURNING r.task_id
           ), streaks AS (
               UPDATE hosts h SET agreements = h.agreements + c.results FROM (
                   SELECT host_id, count(*) AS results FROM agreed JOIN counted USING (task_id)
                   GROUP BY host_id) c
               WHERE h.host_id = c.host_id
           ), met AS (
               INSERT INTO account_agreements (user_id, other_id)
               SELECT DISTINCT a.user_id, b.user_id FROM agreed a JOIN agreed b USING (n)
               WHERE a.user_id <> b.user_id
               ON CONFLICT DO NOTHING RETURNING user_id
           )
           UPDATE users u SET validated = u.validated + e.results, agreeing = u.agreeing + e.others,
               confirmed_by_staff = u.confirmed_by_staff OR e.by_staff
           FROM (SELECT a.user_id, count(*) FILTER (
                            WHERE a.task_id IN (SELECT task_id FROM counted)) AS results,
                        (SELECT count(*) FROM met WHERE met.user_id = a.user_id) AS others,
                        bool_or(EXISTS (SELECT FROM agreed b WHERE b.n = a.n AND b.trusted
                                        AND b.task_id <> a.task_id)) AS by_staff
                 FROM agreed a GROUP BY a.user_id) e
           WHERE u.user_id = e.user_id""",
        {"tasks": tasks, "number": number},
    )


async def confirm_by_answer(connection: Connection, tasks: Sequence[int]) -> None:
    """Record that accounts' results agree with a result of the server's own dry run."""
    await connection.execute(
        """UPDATE users SET confirmed_by_staff = true
           WHERE user_id IN (SELECT user_id FROM tasks WHERE task_id = ANY(%s))""",
        (list(tasks),),
    )


async def record_mismatches(
    connection: Connection, tasks: Sequence[tuple[int, str]], distrust: int
) -> list[int]:
    """Charge the hosts of these tasks with a mismatch each; returns the hosts.

    All results of these hosts are checked until ``distrust`` more are confirmed, and their accounts
    lose half of their confirmed results.
    """
    if not tasks:
        return []
    ids, notes = [t for t, _ in tasks], [n for _, n in tasks]
    charged = await rows(
        connection,
        """INSERT INTO mismatches (task_id, host_id, note)
           SELECT t.task_id, t.host_id, m.note
           FROM unnest(%s::bigint[], %s::text[]) AS m (task_id, note) JOIN tasks t USING (task_id)
           ON CONFLICT DO NOTHING RETURNING host_id""",
        (ids, notes),
    )
    hosts = sorted({int(host) for (host,) in charged})
    await connection.execute(
        "UPDATE hosts SET agreements = -%s WHERE host_id = ANY(%s)", (distrust, hosts)
    )
    await connection.execute(
        """UPDATE users SET validated = validated / 2
           WHERE user_id IN (SELECT user_id FROM hosts WHERE host_id = ANY(%s))""",
        (hosts,),
    )
    return hosts


#: SQL: other accounts than ``user`` whose confirmed results differ from those of ``own`` tasks.
REFUTED_BY = """(SELECT count(DISTINCT o.user_id)
    FROM mismatches b JOIN hosts charged_host ON charged_host.host_id = b.host_id
    JOIN tasks t ON t.task_id = b.task_id JOIN tasks o ON o.workunit_id = t.workunit_id
    JOIN results r ON r.task_id = o.task_id AND r.validated
    WHERE {own} AND o.user_id <> {user} AND b.at > now() - %(window)s * interval '1 second'
      AND (charged_host.released_at IS NULL OR b.at > charged_host.released_at))"""
#: SQL: other accounts than ``user`` whose confirmed results agree with those of ``own`` tasks.
CONFIRMED_BY = """(SELECT count(DISTINCT o.user_id)
    FROM tasks t JOIN results mine ON mine.task_id = t.task_id AND mine.validated
    JOIN tasks o ON o.workunit_id = t.workunit_id
    JOIN results r ON r.task_id = o.task_id AND r.validated
    WHERE {own} AND o.user_id <> {user}
      AND t.ended_at > now() - %(window)s * interval '1 second')"""


async def suspects(connection: Connection, window_seconds: float) -> list[SuspectRow]:
    """Active hosts that were charged in the window."""
    found = await rows(
        connection,
        f"""SELECT h.host_id, count(*), count(*) FILTER (WHERE m.note LIKE 'claims %% passed'),
                  (SELECT count(*) FROM versions v JOIN tasks t USING (version_id)
                   JOIN comparisons c USING (workunit_id)
                   WHERE t.host_id = h.host_id AND c.state IN ('agreed', 'settled')
                     AND t.ended_at > now() - %(window)s * interval '1 second'),
                  {REFUTED_BY.format(own="b.host_id = h.host_id", user="h.user_id")},
                  {CONFIRMED_BY.format(own="t.host_id = h.host_id", user="h.user_id")}
           FROM hosts h JOIN mismatches m USING (host_id)
           WHERE h.state = 'active' AND NOT h.trusted
             AND m.at > now() - %(window)s * interval '1 second'
             AND (h.released_at IS NULL OR m.at > h.released_at)
           GROUP BY h.host_id HAVING count(*) > 1 ORDER BY h.host_id""",
        {"window": window_seconds},
    )
    return [SuspectRow._make(r) for r in found]


async def suspect_accounts(connection: Connection, window_seconds: float) -> list[SuspectAccount]:
    """Accounts with mismatches on several hosts in the window.

    Hosts that have left the account since are included. Hosts in quarantine are not, because one
    broken host must not count against its account.
    """
    found = await rows(
        connection,
        f"""WITH charged AS (
               SELECT t.user_id, count(*) AS mismatches, count(DISTINCT m.host_id) AS hosts
               FROM mismatches m JOIN tasks t USING (task_id)
               JOIN hosts h ON h.host_id = m.host_id JOIN users u ON u.user_id = t.user_id
               WHERE m.at > now() - %(window)s * interval '1 second' AND u.state = 'active'
                 AND h.state <> 'quarantined' AND NOT h.trusted
                 AND (h.released_at IS NULL OR m.at > h.released_at)
               GROUP BY t.user_id)
           SELECT user_id, mismatches, (
               SELECT count(*) FROM hosts o JOIN tasks t USING (host_id)
               JOIN comparisons c USING (workunit_id)
               WHERE o.user_id = charged.user_id AND c.state IN ('agreed', 'settled')
                 AND t.ended_at > now() - %(window)s * interval '1 second'),
               {REFUTED_BY.format(own="t.user_id = charged.user_id", user="charged.user_id")},
               {CONFIRMED_BY.format(own="t.user_id = charged.user_id", user="charged.user_id")}
           FROM charged WHERE hosts > 1
             AND NOT EXISTS (SELECT FROM hosts s WHERE s.user_id = charged.user_id AND s.trusted)
           ORDER BY user_id""",
        {"window": window_seconds},
    )
    return [SuspectAccount._make(map(int, r)) for r in found]


async def hosts_of_account(connection: Connection, host_id: int) -> list[tuple[int, str, int]]:
    """(host, state, streak of confirmed results) of all hosts of this host's account."""
    found = await rows(
        connection,
        """SELECT o.host_id, o.state, o.agreements FROM hosts h JOIN hosts o USING (user_id)
           WHERE h.host_id = %s ORDER BY o.host_id""",
        (host_id,),
    )
    return [(int(h), str(state), int(streak)) for h, state, streak in found]


async def account_of(connection: Connection, host_id: int) -> int | None:
    """The user of a host."""
    found = await rows(connection, "SELECT user_id FROM hosts WHERE host_id = %s", (host_id,))
    return found[0][0] if found else None


async def quarantine_account(connection: Connection, user_id: int, reason: str) -> list[int]:
    """Quarantine an account: none of its hosts, now or later, gets work. Returns its hosts."""
    await connection.execute(
        """UPDATE users SET state = 'quarantined', state_reason = %s, validated = 0
           WHERE user_id = %s""",
        (reason, user_id),
    )
    found = await rows(
        connection, "SELECT host_id FROM hosts WHERE user_id = %s ORDER BY 1", (user_id,)
    )
    return [int(host_id) for (host_id,) in found]


async def count_unconfirmed(connection: Connection) -> None:
    """Update the number of results of each account that wait for confirmation."""
    await connection.execute(
        """WITH changed AS (
               SELECT u.user_id, COALESCE(w.results, 0) AS results
               FROM users u LEFT JOIN (
                   SELECT t.user_id, count(*) AS results FROM comparisons c
                   JOIN tasks t ON t.task_id = c.task_id
                   WHERE c.state IN ('wanted', 'placed', 'disputed') GROUP BY t.user_id) w
                 ON w.user_id = u.user_id
               WHERE u.unconfirmed <> COALESCE(w.results, 0)
               ORDER BY u.user_id FOR NO KEY UPDATE OF u)
           UPDATE users u SET unconfirmed = changed.results FROM changed
           WHERE u.user_id = changed.user_id"""
    )


async def has_trusted_hosts(connection: Connection) -> bool:
    """Whether staff trust any host."""
    found = await rows(connection, "SELECT EXISTS (SELECT FROM hosts WHERE trusted)")
    return bool(found[0][0])


async def set_trusted(connection: Connection, host_id: int, trusted: bool) -> bool:
    """Trust a host: its results are taken as correct. False when there is no such active host."""
    cursor = await connection.execute(
        """UPDATE hosts SET trusted = %s WHERE host_id = %s AND NOT imported
           AND (state = 'active' OR NOT %s)""",
        (trusted, host_id, trusted),
    )
    return cursor.rowcount == 1


async def may_add_host(connection: Connection, user_id: int, newcomer_hosts: int) -> bool:
    """Whether one more host may join an account, by how many joined or sent a sync in a week.

    Hosts that have left count too; otherwise an account could create any number of hosts by joining
    and leaving.
    """
    found = await rows(
        connection,
        """SELECT u.vouched OR COALESCE(count(h.host_id), 0) < %s + u.validated
                  OR COALESCE(bool_or(h.trusted), false)
           FROM users u LEFT JOIN hosts h ON h.user_id = u.user_id AND (
               h.created_at > now() - interval '7 days'
               OR h.token IS NOT NULL AND h.last_seen_at > now() - interval '7 days')
           WHERE u.user_id = %s GROUP BY u.user_id""",
        (newcomer_hosts, user_id),
    )
    return bool(found and found[0][0])


async def vouch(connection: Connection, name: str, vouched: bool) -> bool:
    """Vouch for a user: the cores that their hosts report are believed. False: no such user."""
    cursor = await connection.execute(
        "UPDATE users SET vouched = %s WHERE name = %s", (vouched, name)
    )
    return cursor.rowcount == 1
