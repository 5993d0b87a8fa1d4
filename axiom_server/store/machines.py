"""A volunteer's own hosts: their state, and the account's settings for them and their groups."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

import msgspec

from axiom_protocol.messages import AccountSettings, HostSettings
from axiom_server.store.database import Connection, as_json, row, rows
from axiom_server.store.owner_locks import lock_accounts

HOSTS_MAX = 2_000  # on one page
GROUPS_MAX = 100  # with settings, of one account
MODES_MAX = 20  # of one account; the protocol carries no more


class Modes(NamedTuple):
    """What an account's modes set, by name, and the one that is on ("": none)."""

    named: dict[str, HostSettings]
    chosen: str


class Machine(NamedTuple):
    """One host as its owner sees it."""

    host_id: int
    name: str
    group: str
    state: str
    state_reason: str
    cpu_cores: int
    gpus: int
    last_seen_at: datetime | None
    status: dict[str, Any] | None
    settings: dict[str, Any] | None
    in_group: dict[str, Any] | None
    tasks: int
    revision: str

    @property
    def in_force(self) -> bool:
        """Whether the host has applied the account's latest settings."""
        return bool((self.status or {}).get("revision", "") == self.revision)


async def listing(connection: Connection, user_id: int) -> list[Machine]:
    """The user's hosts, by group and name."""
    found = await rows(
        connection,
        """SELECT h.host_id, h.name, h.group_name, h.state, h.state_reason, h.cpu_cores, h.gpus,
                  h.last_seen_at, h.status, h.account_settings, g.settings,
                  (SELECT count(*) FROM tasks t WHERE t.host_id = h.host_id AND t.state = 'leased'),
                  h.account_revision
           FROM hosts h LEFT JOIN host_groups g ON g.user_id = h.user_id AND g.name = h.group_name
           WHERE h.user_id = %s ORDER BY h.group_name, h.name, h.host_id LIMIT %s""",
        (user_id, HOSTS_MAX),
    )
    return [Machine._make(r) for r in found]


async def set_hosts(
    connection: Connection, user_id: int, host_ids: Sequence[int] | None, settings: HostSettings
) -> int:
    """Set the settings of these hosts of the user, or of all (None); returns how many."""
    await lock_accounts(connection, (), [user_id])
    cursor = await connection.execute(
        """UPDATE hosts SET account_settings = %s::jsonb
           WHERE user_id = %s AND (%s::bigint[] IS NULL OR host_id = ANY(%s))""",
        (as_json(settings), user_id, host_ids, host_ids),
    )
    await refresh(connection, user_id)
    return cursor.rowcount


async def set_group(
    connection: Connection, user_id: int, name: str, settings: HostSettings
) -> bool:
    """Set the settings of all hosts in a group of the user, also of hosts that join it later.

    False when the user has GROUPS_MAX others.
    """
    cursor = await connection.execute(
        """INSERT INTO host_groups SELECT %(user)s, %(name)s, %(settings)s::jsonb
           WHERE (SELECT count(*) FROM host_groups
                  WHERE user_id = %(user)s AND name <> %(name)s) < %(most)s
           ON CONFLICT (user_id, name) DO UPDATE SET settings = EXCLUDED.settings""",
        {"user": user_id, "name": name, "settings": as_json(settings), "most": GROUPS_MAX},
    )
    await refresh(connection, user_id)
    return cursor.rowcount == 1


async def put_in_group(
    connection: Connection, user_id: int, host_ids: Sequence[int], name: str
) -> None:
    """Put hosts of the user into a group; an empty name removes them from their group."""
    await lock_accounts(connection, (), [user_id])
    await connection.execute(
        "UPDATE hosts SET group_name = %s WHERE user_id = %s AND host_id = ANY(%s)",
        (name, user_id, list(host_ids)),
    )
    await refresh(connection, user_id)


async def modes(connection: Connection, user_id: int) -> Modes:
    """The user's modes, and the one that is on."""
    found = await rows(
        connection,
        "SELECT name, settings FROM account_modes WHERE user_id = %s ORDER BY name",
        (user_id,),
    )
    chosen = await row(connection, "SELECT mode FROM users WHERE user_id = %s", (user_id,))
    named = {str(name): msgspec.convert(settings, HostSettings) for name, settings in found}
    return Modes(named=named, chosen=str(chosen[0]))


async def name_mode(
    connection: Connection, user_id: int, name: str, settings: HostSettings
) -> bool:
    """Store what a mode sets, a new one or one of before; False when there are MODES_MAX."""
    known = (await modes(connection, user_id)).named
    if name not in known and len(known) >= MODES_MAX:
        return False
    await connection.execute(
        """INSERT INTO account_modes VALUES (%s, %s, %s::jsonb)
           ON CONFLICT (user_id, name) DO UPDATE SET settings = EXCLUDED.settings""",
        (user_id, name, as_json(settings)),
    )
    await refresh(connection, user_id)
    return True


async def forget_mode(connection: Connection, user_id: int, name: str) -> None:
    """Delete a mode; when it is on, none is after."""
    await connection.execute(
        "DELETE FROM account_modes WHERE user_id = %s AND name = %s", (user_id, name)
    )
    await lock_accounts(connection, (), [user_id])
    await connection.execute(
        "UPDATE users SET mode = '' WHERE user_id = %s AND mode = %s", (user_id, name)
    )
    await refresh(connection, user_id)


async def switch_mode(connection: Connection, user_id: int, name: str) -> bool:
    """Switch all of the user's hosts into a mode, or ("") out of it; False when it is not known."""
    if name and name not in (await modes(connection, user_id)).named:
        return False
    await lock_accounts(connection, (), [user_id])
    await connection.execute("UPDATE users SET mode = %s WHERE user_id = %s", (name, user_id))
    await refresh(connection, user_id)
    return True


async def refresh(connection: Connection, user_id: int) -> None:
    """Recompute the settings sent to each of the user's hosts; store those that changed."""
    of_account = await modes(connection, user_id)
    found = await rows(
        connection,
        """SELECT h.host_id, h.account_settings, g.settings, h.account_revision,
                  extract(epoch FROM now())::float8
           FROM hosts h LEFT JOIN host_groups g ON g.user_id = h.user_id AND g.name = h.group_name
           WHERE h.user_id = %s ORDER BY h.host_id FOR NO KEY UPDATE OF h""",
        (user_id,),
    )
    for host_id, own, of_group, revision, now in found:
        answer = _answer([own, of_group], of_account, now)
        if answer.revision != revision:
            await connection.execute(
                """UPDATE hosts SET account_answer = %s::jsonb, account_revision = %s
                   WHERE host_id = %s""",
                (as_json(answer), answer.revision, host_id),
            )


def _answer(stored: Sequence[dict[str, Any] | None], modes: Modes, now: float) -> AccountSettings:
    settings = [msgspec.convert(s, HostSettings) for s in stored if s]
    settings += [modes.named[modes.chosen]] if modes.chosen else []
    settings = [s for s in settings if s != HostSettings()]
    told: list[Any] = [settings, modes.chosen, modes.named] if modes.named else settings
    digest = hashlib.sha256(msgspec.json.encode(told)).hexdigest()[:16]
    return AccountSettings(
        revision=digest, set_at=now, settings=settings, mode=modes.chosen, modes=modes.named
    )


def settings_of(machine: Machine) -> HostSettings:
    """The account's settings for this host only, without those of its group."""
    return msgspec.convert(machine.settings or {}, HostSettings)
