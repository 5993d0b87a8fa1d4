"""Users: accounts, their keys and their credit."""

from __future__ import annotations

import hashlib
import secrets
from datetime import datetime
from typing import NamedTuple

from axiom_server.decide.names import INVISIBLE, LOOKS_LIKE, STANDS_FOR
from axiom_server.store.database import Connection, row, rows

NAMES_LOCK = 0x6E616D6573  # "names": held while an account is created or renamed

#: SQL: the appearance of a name; equal for two names that a reader could confuse.
APPEARANCE = """CASE WHEN octet_length({0}) = char_length({0}) THEN translate({0}, '1I|0', 'lllO')
               ELSE translate(normalize({0}, NFKC), %(shapes)s, %(plain)s) END"""
_SAME_APPEARANCE = f"{APPEARANCE.format('u.name')} = {APPEARANCE.format('%(name)s::text')}"
#: SQL: an account with another name of the same appearance.
LOOKALIKE = f"SELECT 1 FROM users u WHERE u.name <> %(name)s AND {_SAME_APPEARANCE}"
NAME_SHAPES = {"shapes": LOOKS_LIKE + INVISIBLE, "plain": STANDS_FOR}  # invisible ones are dropped

KEY_BYTES = 32  # 256 bits: cannot be guessed


class UserLine(NamedTuple):
    """One user, as listed for staff."""

    user_id: int
    name: str
    created_at: datetime
    credit_total: float
    average: float
    average_at: datetime | None
    hosts: int
    has_key: bool


class AccountRow(NamedTuple):
    """An account that has a key."""

    user_id: int
    name: str
    state: str
    state_reason: str


def new_secret() -> tuple[str, bytes]:
    """A random key or token to show once, and its sha256 to store."""
    secret = secrets.token_urlsafe(KEY_BYTES)
    return secret, digest(secret)


def digest(secret: str) -> bytes:
    """The sha256 of a key or token. A plain hash is enough for 256 random bits."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


async def create_or_claim(connection: Connection, name: str, key: bytes) -> int | None:
    """Create an account that staff vouch for, or give an imported user without a key this key.

    Returns the user's id; None when the name, or one that looks the same, is taken.
    """
    await _lock_names(connection)
    found = await rows(
        connection,
        f"""INSERT INTO users (name, account_key, vouched) SELECT %(name)s, %(key)s, true
           WHERE EXISTS (SELECT 1 FROM users WHERE name = %(name)s) OR NOT EXISTS ({LOOKALIKE})
           ON CONFLICT (name) DO UPDATE SET account_key = EXCLUDED.account_key, vouched = true
               WHERE users.account_key IS NULL
           RETURNING user_id""",
        {"name": name, "key": key, **NAME_SHAPES},
    )
    return int(found[0][0]) if found else None


async def create(connection: Connection, name: str, key: bytes, address: str = "") -> int | None:
    """Create an account; None when the name, or one that looks the same, is taken.

    address  network address it joins from; accounts of one address do not judge each other
    """
    await _lock_names(connection)
    found = await rows(
        connection,
        f"""INSERT INTO users (name, account_key, address) SELECT %(name)s, %(key)s, %(address)s
           WHERE NOT EXISTS ({LOOKALIKE})
           ON CONFLICT (name) DO NOTHING RETURNING user_id""",
        {"name": name, "key": key, "address": address, **NAME_SHAPES},
    )
    return int(found[0][0]) if found else None


async def _lock_names(connection: Connection) -> None:
    """Lock names until the transaction ends, so that no two that look alike are created at once."""
    await connection.execute("SELECT pg_advisory_xact_lock(%s)", (NAMES_LOCK,))


async def by_key(connection: Connection, key: bytes) -> AccountRow | None:
    """The account with this key's sha256."""
    found = await rows(
        connection,
        "SELECT user_id, name, state, state_reason FROM users WHERE account_key = %s",
        (key,),
    )
    return AccountRow._make(found[0]) if found else None


async def ensure(connection: Connection, names: list[str]) -> dict[str, int]:
    """User ids by name; unknown users are created without a key."""
    await connection.execute(
        "INSERT INTO users (name) SELECT DISTINCT unnest(%s::text[]) ON CONFLICT DO NOTHING",
        (names,),
    )
    found = await rows(connection, "SELECT name, user_id FROM users WHERE name = ANY(%s)", (names,))
    return dict(found)


async def listing(connection: Connection, limit: int) -> list[UserLine]:
    """Users by credit, highest first."""
    found = await rows(
        connection,
        """SELECT u.user_id, u.name, u.created_at, u.credit_total::float8, u.average, u.average_at,
                  (SELECT count(*) FROM hosts h WHERE h.user_id = u.user_id),
                  u.account_key IS NOT NULL
           FROM users u ORDER BY u.credit_total DESC, u.user_id LIMIT %s""",
        (limit,),
    )
    return [UserLine._make(r) for r in found]


async def count(connection: Connection) -> int:
    """Number of users."""
    return int((await row(connection, "SELECT count(*) FROM users"))[0])
