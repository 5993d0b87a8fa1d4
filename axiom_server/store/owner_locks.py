"""Lock the rows of hosts and users in the order in which every transaction locks them.

The order is: hosts by id, then users by id. A sync locks its hosts so too. A transaction that
changes several of these rows in another order can deadlock with a sync; PostgreSQL would then
cancel one of the two.
"""

from __future__ import annotations

from collections.abc import Collection

from axiom_server.store.database import Connection, rows


async def lock_owners(
    connection: Connection, hosts: Collection[int], users: Collection[int]
) -> None:
    """Lock these hosts and then these users."""
    for table, key, ids in (("hosts", "host_id", hosts), ("users", "user_id", users)):
        await connection.execute(
            f"SELECT FROM {table} WHERE {key} = ANY(%s) ORDER BY {key} FOR NO KEY UPDATE",
            (sorted(ids),),
        )


async def lock_owners_of_tasks(connection: Connection, tasks: Collection[int]) -> None:
    """Lock the hosts of these tasks, and then the users of the tasks and of the hosts."""
    found = await rows(
        connection,
        """SELECT DISTINCT t.host_id, t.user_id, h.user_id
           FROM tasks t JOIN hosts h USING (host_id) WHERE t.task_id = ANY(%s)""",
        (list(tasks),),
    )
    await lock_owners(
        connection,
        {host for host, _, _ in found},
        {user for _, *users in found for user in users if user is not None},
    )


async def lock_accounts(
    connection: Connection, hosts: Collection[int], users: Collection[int]
) -> None:
    """Lock these users and the users of these hosts, after all hosts of both."""
    found = await rows(
        connection,
        """SELECT host_id, user_id FROM hosts
           WHERE host_id = ANY(%(hosts)s) OR user_id = ANY(%(users)s)
              OR user_id IN (SELECT user_id FROM hosts WHERE host_id = ANY(%(hosts)s))""",
        {"hosts": list(hosts), "users": list(users)},
    )
    owners = {user for _, user in found if user is not None}
    await lock_owners(connection, {host for host, _ in found}, owners.union(users))
