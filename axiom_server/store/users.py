"""Users: accounts, their keys and their credit."""

from __future__ import annotations

import hashlib
import secrets
from datetime import datetime
from typing import NamedTuple

from axiom_server.store.database import Connection, row, rows

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


def new_secret() -> tuple[str, bytes]:
    """A random key or token to show once, and its sha256 to store."""
    secret = secrets.token_urlsafe(KEY_BYTES)
    return secret, digest(secret)


def digest(secret: str) -> bytes:
    """The sha256 of a key or token. A plain hash is enough for 256 random bits."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


async def create_or_claim(connection: Connection, name: str, key: bytes) -> int | None:
    """Create an account, or set the key of an imported user without one.

    Returns the user's id; None when the name is taken.
    """
    found = await rows(
        connection,
        """INSERT INTO users (name, account_key) VALUES (%s, %s)
           ON CONFLICT (name) DO UPDATE SET account_key = EXCLUDED.account_key
               WHERE users.account_key IS NULL
           RETURNING user_id""",
        (name, key),
    )
    return int(found[0][0]) if found else None


async def create(connection: Connection, name: str, key: bytes) -> int | None:
    """Create an account; None when the name is taken, also by an imported user."""
    found = await rows(
        connection,
        """INSERT INTO users (name, account_key) VALUES (%s, %s)
           ON CONFLICT (name) DO NOTHING RETURNING user_id""",
        (name, key),
    )
    return int(found[0][0]) if found else None


async def by_key(connection: Connection, key: bytes) -> tuple[int, str] | None:
    """The (id, name) of the account with this key's sha256."""
    found = await rows(connection, "SELECT user_id, name FROM users WHERE account_key = %s", (key,))
    return (int(found[0][0]), str(found[0][1])) if found else None


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
