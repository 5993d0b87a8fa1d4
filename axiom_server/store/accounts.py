"""A volunteer's own account: what its owner may see, change and export."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from axiom_server.store.database import Connection, row, rows
from axiom_server.store.owner_locks import lock_accounts
from axiom_server.store.users import APPEARANCE, LOOKALIKE, NAME_SHAPES, NAMES_LOCK

TEAMS_MAX = 5  # founded by one account, with members
#: A team whose name looks the same, as it is written or in small letters.
_NAME = "%(name)s::text"
TEAM_LOOKALIKE = f"""SELECT FROM teams o
    WHERE (lower({APPEARANCE.format("o.name")}) = lower({APPEARANCE.format(_NAME)})
           OR {APPEARANCE.format("lower(o.name)")} = {APPEARANCE.format(f"lower({_NAME})")})"""

EVERYTHING = """
SELECT json_build_object(
    'account', (SELECT json_build_object('name', name, 'created_at', created_at, 'shown', shown,
        'credit_total', credit_total, 'address', address, 'state', state)
        FROM users WHERE user_id = %(user)s),
    'hosts', (SELECT coalesce(json_agg(json_build_object('host_id', host_id, 'name', name,
        'group', group_name, 'created_at', created_at, 'last_seen_at', last_seen_at,
        'facts', facts, 'status', status, 'settings', account_settings,
        'credit_total', credit_total) ORDER BY host_id), '[]')
        FROM hosts WHERE user_id = %(user)s),
    'tasks', (SELECT coalesce(json_agg(json_build_object('task_id', task_id, 'host_id', host_id,
        'outcome', outcome, 'granted_at', granted_at, 'ended_at', ended_at,
        'elapsed_seconds', elapsed_seconds, 'message', message) ORDER BY task_id), '[]')
        FROM tasks WHERE user_id = %(user)s),
    'credit', (SELECT coalesce(json_agg(json_build_object('task_id', task_id,
        'amount', amount, 'at', at) ORDER BY entry_id), '[]')
        FROM credit WHERE user_id = %(user)s))::text"""


class Account(NamedTuple):
    """An account as its owner sees it."""

    name: str
    created_at: datetime
    credit_total: float
    shown: bool
    has_key: bool
    team_id: int | None
    team: str | None
    founder: bool


async def get(connection: Connection, user_id: int) -> Account:
    """The account of a user."""
    found = await row(
        connection,
        """SELECT u.name, u.created_at, u.credit_total::float8, u.shown, u.account_key IS NOT NULL,
                  t.team_id, t.name, COALESCE(t.founder_id = u.user_id, false)
           FROM users u LEFT JOIN teams t USING (team_id) WHERE u.user_id = %s""",
        (user_id,),
    )
    return Account._make(found)


async def set_key(connection: Connection, user_id: int, key: bytes, session: bytes) -> None:
    """Replace the account's key; ``key`` is the sha256 of the new one. The old key is revoked.

    So is what somebody may have got with it: all links, and all sessions but ``session``.
    """
    await connection.execute("UPDATE users SET account_key = %s WHERE user_id = %s", (key, user_id))
    await connection.execute(
        "DELETE FROM web_sessions WHERE user_id = %s AND token <> %s", (user_id, session)
    )
    await connection.execute("DELETE FROM sign_in_links WHERE user_id = %s", (user_id,))


async def set_shown(connection: Connection, user_id: int, *, shown: bool) -> None:
    """Show a user on the public pages, or hide the user."""
    await connection.execute("UPDATE users SET shown = %s WHERE user_id = %s", (shown, user_id))


async def everything(connection: Connection, user_id: int) -> str:
    """Everything stored about a user, except keys and tokens, as JSON."""
    return str((await row(connection, EVERYTHING, {"user": user_id}))[0])


async def rename(connection: Connection, user_id: int, name: str) -> bool:
    """Give an account another name; False when it, or one that looks the same, is taken."""
    await connection.execute("SELECT pg_advisory_xact_lock(%s)", (NAMES_LOCK,))
    cursor = await connection.execute(
        f"""UPDATE users me SET name = %(name)s WHERE me.user_id = %(user)s AND NOT EXISTS (
                {LOOKALIKE} AND u.user_id <> %(user)s)
            AND NOT EXISTS (SELECT FROM users WHERE name = %(name)s AND user_id <> %(user)s)""",
        {"name": name, "user": user_id, **NAME_SHAPES},
    )
    return cursor.rowcount == 1


async def delete(connection: Connection, user_id: int) -> None:
    """Anonymise an account: its name and key are deleted; its credit and results are kept.

    Its hosts are detached, and their descriptions are deleted.
    """
    await lock_accounts(connection, (), [user_id])
    await leave_team(connection, user_id)
    await connection.execute(
        """UPDATE users u SET name = 'deleted-' || user_id || CASE WHEN EXISTS (
                   SELECT FROM users o WHERE o.name = 'deleted-' || u.user_id
               ) THEN '-' || md5(random()::text) ELSE '' END,
               account_key = NULL, shown = false, address = '' WHERE user_id = %s""",
        (user_id,),
    )
    await connection.execute(
        """UPDATE hosts SET name = 'deleted', token = NULL, facts = '{}', status = NULL,
               group_name = '', account_settings = NULL, account_answer = NULL, draining = '',
               idle_cpu = 0, idle_gpu = 0 WHERE user_id = %s""",
        (user_id,),
    )
    await connection.execute("UPDATE tasks SET message = '' WHERE user_id = %s", (user_id,))
    for table in ("web_sessions", "sign_in_links", "host_groups", "account_modes"):
        await connection.execute(f"DELETE FROM {table} WHERE user_id = %s", (user_id,))


async def merge_hosts(connection: Connection, user_id: int, old: int, new: int) -> bool:
    """Merge two of the user's hosts, after a reinstallation: the new one gets the old one's credit.

    The old host's token is revoked and its open tasks are lost. Its rows in the ledger are not
    changed; only the sums move, those of sessions and outcomes too. False when these are not two
    hosts of the user.
    """
    await lock_accounts(connection, (), [user_id])
    cursor = await connection.execute(
        """UPDATE hosts n SET credit_total = n.credit_total + o.credit_total,
               pending = n.pending + o.pending
           FROM hosts o WHERE n.host_id = %s AND o.host_id = %s AND o.host_id <> n.host_id
             AND n.user_id = %s AND o.user_id = n.user_id AND o.state = 'active'""",
        (new, old, user_id),
    )
    if cursor.rowcount != 1:
        return False
    await connection.execute(
        """UPDATE hosts SET credit_total = 0, average = 0, pending = 0, token = NULL, idle_cpu = 0,
               idle_gpu = 0, user_id = NULL, state = 'merged', state_reason = %s
           WHERE host_id = %s""",
        (f"into host {new}", old),
    )
    await _move_sums(connection, user_id, old, new)
    return True


async def _move_sums(connection: Connection, user_id: int, old: int, new: int) -> None:
    """Add what is summed up of one host to another's."""
    for table, key, sums in (
        ("host_sessions", "session_id", ("results", "credit")),
        ("host_outcomes", "outcome", ("tasks",)),
        ("session_hosts", "session_id", ("cpu", "gpu")),
    ):
        columns, added = ", ".join(sums), ", ".join(f"{c} = t.{c} + excluded.{c}" for c in sums)
        await connection.execute(
            f"""WITH moved AS (DELETE FROM {table} WHERE host_id = %s RETURNING {key}, {columns})
                INSERT INTO {table} AS t (host_id, {key}, {columns})
                SELECT %s, {key}, {columns} FROM moved
                ON CONFLICT (host_id, {key}) DO UPDATE SET {added}""",
            (old, new),
        )
    await connection.execute(
        """UPDATE user_sessions SET
               first_hosts = ARRAY(SELECT DISTINCT CASE WHEN h = %(old)s THEN %(new)s ELSE h END
                                   FROM unnest(first_hosts) h ORDER BY 1),
               hosts = hosts - (%(old)s = ANY(first_hosts) AND %(new)s = ANY(first_hosts))::int
           WHERE user_id = %(user)s AND %(old)s = ANY(first_hosts)""",
        {"old": old, "new": new, "user": user_id},
    )


async def found_team(connection: Connection, user_id: int, name: str) -> bool:
    """Found a team and join it; False when the name, or one that looks the same, is taken.

    Also for who has founded TEAMS_MAX already; those that nobody is in any more are ended.
    """
    await connection.execute("SELECT pg_advisory_xact_lock(%s)", (NAMES_LOCK,))
    await connection.execute(
        """DELETE FROM teams t WHERE founder_id = %s
           AND NOT EXISTS (SELECT FROM users u WHERE u.team_id = t.team_id)""",
        (user_id,),
    )
    found = await rows(
        connection,
        f"""INSERT INTO teams (name, founder_id) SELECT %(name)s, %(user)s
           WHERE NOT EXISTS ({TEAM_LOOKALIKE})
             AND (SELECT count(*) FROM teams WHERE founder_id = %(user)s) < {TEAMS_MAX}
           ON CONFLICT DO NOTHING RETURNING team_id""",
        {"name": name, "user": user_id, **NAME_SHAPES},
    )
    return bool(found) and await enter_team(connection, user_id, int(found[0][0]))


async def enter_team(connection: Connection, user_id: int, team_id: int) -> bool:
    """Join a team and leave the previous one; False when there is no team of that id."""
    cursor = await connection.execute(
        """UPDATE users SET team_id = t.team_id FROM teams t
           WHERE users.user_id = %s AND t.team_id = %s""",
        (user_id, team_id),
    )
    return cursor.rowcount == 1


async def leave_team(connection: Connection, user_id: int) -> None:
    """Leave the team. A founder who leaves hands it to the member with most credit."""
    await connection.execute("UPDATE users SET team_id = NULL WHERE user_id = %s", (user_id,))
    await connection.execute(
        """UPDATE teams t SET founder_id = (
               SELECT u.user_id FROM users u WHERE u.team_id = t.team_id
               ORDER BY u.credit_total DESC, u.user_id LIMIT 1)
           WHERE founder_id = %s""",
        (user_id,),
    )


async def rename_team(connection: Connection, user_id: int, name: str) -> bool:
    """Rename the team that the user founded; False when there is none, or the name is taken."""
    await connection.execute("SELECT pg_advisory_xact_lock(%s)", (NAMES_LOCK,))
    cursor = await connection.execute(
        f"""UPDATE teams SET name = %(name)s
           WHERE team_id = (SELECT team_id FROM users WHERE user_id = %(user)s)
             AND founder_id = %(user)s
             AND NOT EXISTS ({TEAM_LOOKALIKE} AND o.team_id <> teams.team_id)""",
        {"name": name, "user": user_id, **NAME_SHAPES},
    )
    return cursor.rowcount == 1
