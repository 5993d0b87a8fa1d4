"""The list of sessions, and the page of each session log with tables."""

from __future__ import annotations

from typing import Any

import msgspec

from axiom_server.config import Config
from axiom_server.pages.environment import render
from axiom_server.review.log import FindingLine, HostWork, SessionLog, TierLine
from axiom_server.review.log_text import heading_of, sections
from axiom_server.review.session_log import NO_OWNER, deployed_work, next_steps
from axiom_server.store import session_sums, sessions
from axiom_server.store.database import Connection
from axiom_server.store.session_sums import DeployedTotals, Earner
from axiom_server.store.sessions import SessionRow

LISTED = 100  # sessions on one page
ROWS = 100  # volunteers, and hosts, on one page of a session
PAGES_MAX = 10_000
TABLES = ("CREDIT AWARDED", "EXPERIMENTS DEPLOYED", "KEY SCIENTIFIC FINDINGS")


async def listing(connection: Connection, config: Config) -> str:
    """The latest sessions."""
    return render(
        "sessions.html", project=config.project.name, path="/sessions",
        sessions=await sessions.latest(connection, LISTED),
    )  # fmt: skip


async def one(connection: Connection, config: Config, session_id: int, page: int = 1) -> str | None:
    """The page of one session log; None when there is no such session.

    ``page``: of the volunteers and hosts, from 1.
    """
    session = await sessions.get(connection, session_id)
    if session is None:
        return None
    first = (page - 1) * ROWS
    earners = await session_sums.earners(connection, session_id, ROWS, first)
    summed = await session_sums.sums(connection, session_id)
    log, totals = await _log(connection, config, session, summed, first)
    texts = [s for s in sections(log) if not s[0].startswith(TABLES)]
    more = max(summed["users"], totals.hosts) > first + ROWS
    return render(
        "session.html", project=config.project.name, path=f"/sessions/{session_id}",
        session=session_id, newer=await sessions.exists(connection, session_id + 1),
        heading=heading_of(log), log=log, earners=earners, hosts=log.deployed_to,
        no_owner=_without_owner(summed) if page == 1 else None, page=page, more=more,
        users=summed["users"], totals=totals,
        summary=texts[0][1], texts=[(h, "\n".join(lines)) for h, lines in texts[1:]],
    )  # fmt: skip


async def _log(
    connection: Connection, config: Config, session: SessionRow, summed: dict[str, Any], first: int
) -> tuple[SessionLog, DeployedTotals]:
    """The log with the hosts of one page, without its volunteers."""
    shown = await _deployed_in(connection, session.session_id, summed)
    totals = msgspec.convert(shown[1]["deployed"], DeployedTotals)
    hosts = await session_sums.deployed_hosts(connection, shown[0], ROWS, first)
    deployed, new = await deployed_work(connection, shown[0])
    findings = msgspec.convert(session.record.get("findings", []), list[FindingLine])
    pending = session.record.get("pending", 0)
    steps = next_steps(findings, [e.name for e in deployed if e.new], totals.hosts, pending)
    log = SessionLog(
        project=config.project.name, session=session.session_id, at=session.opened_at,
        opened=False, results=session.results, credit=float(session.credit),
        tiers=msgspec.convert(session.record["tiers"], list[TierLine]),
        users=[], by_experiment=summed["experiments"], unpaid=session.record.get("unpaid", {}),
        pending=pending, deployed=deployed,
        deployed_to=[HostWork(**h._asdict()) for h in hosts],
        unlisted_hosts=max(0, totals.hosts - len(hosts)), deployed_to_pool=totals.pool,
        deployed_since=shown[0] if shown[0] != session.session_id else None,
        new_experiments=new, findings=findings, alarms=session.record.get("alarms", []),
        seeds=session.record.get("seeds", []),
        next_steps=[*steps, *await sessions.notes(connection, session.session_id)],
    )  # fmt: skip
    return log, totals


async def _deployed_in(
    connection: Connection, session_id: int, summed: dict[str, Any]
) -> tuple[int, dict[str, Any]]:
    """The session whose deployments are shown: while it has none, the one before; its sums."""
    if summed["deployed"] or session_id == 1:
        return session_id, summed
    if not await sessions.exists(connection, session_id - 1):
        return session_id, summed
    return session_id - 1, await session_sums.sums(connection, session_id - 1)


def _without_owner(summed: dict[str, Any]) -> Earner | None:
    """The line of hosts without an owner, where there is one."""
    found = summed["no_owner"]
    return None if found is None else Earner(user_id=0, name=NO_OWNER, **found)
