"""The list of sessions, and the page of each session log with tables."""

from __future__ import annotations

from axiom_server.config import Config
from axiom_server.pages.environment import render
from axiom_server.review.log_text import heading_of, sections
from axiom_server.review.session_log import session_log
from axiom_server.store import sessions
from axiom_server.store.database import Connection, rows

LISTED = 100  # sessions on one page
ROWS = 300  # volunteers, and hosts, listed on a session's page
TABLES = ("CREDIT AWARDED", "EXPERIMENTS DEPLOYED", "KEY SCIENTIFIC FINDINGS")


async def listing(connection: Connection, config: Config) -> str:
    """The latest sessions."""
    return render(
        "sessions.html", project=config.project.name, path="/sessions",
        sessions=await sessions.latest(connection, LISTED),
    )  # fmt: skip


async def one(connection: Connection, config: Config, session_id: int) -> str | None:
    """The page of one session log; None when there is no such session."""
    if await sessions.get(connection, session_id) is None:
        return None
    log = await session_log(connection, config, session_id)
    newer = await sessions.get(connection, session_id + 1)
    texts = [s for s in sections(log) if not s[0].startswith(TABLES)]
    found = await rows(
        connection,
        "SELECT name, user_id FROM users WHERE shown AND name = ANY(%s)",
        ([u.name for u in log.users[:ROWS]],),
    )
    return render(
        "session.html", project=config.project.name, path=f"/sessions/{session_id}",
        session=session_id, listed=ROWS, newer=session_id + 1 if newer else None,
        heading=heading_of(log),
        log=log, user_ids=dict(found),
        summary=texts[0][1], texts=[(h, "\n".join(lines)) for h, lines in texts[1:]],
    )  # fmt: skip
