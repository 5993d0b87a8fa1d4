"""Public pages of the project, read-only. The templates escape every text."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from axiom_server.config import Config
from axiom_server.decide.credit import decayed
from axiom_server.review.log import number
from axiom_server.review.log_text import heading_of, sections
from axiom_server.review.session_log import session_log
from axiom_server.store import experiments, overview, sessions, users
from axiom_server.store.database import Connection

LEADERS = 100  # users listed on the front page
SESSIONS = 10  # latest sessions listed there
#: Totals on the front page, with their labels.
SHOWN = {
    "users": "volunteers", "hosts": "hosts", "live_hosts": "hosts online",
    "leased": "tasks running", "queued": "tasks waiting",
    "credited_results": "results credited", "credit": "credit",
}  # fmt: skip

_environment = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_environment.filters["number"] = lambda value: f"{number(value):,}"


async def front(connection: Connection, config: Config) -> str:
    """The front page: totals, experiments with their verdicts, users by credit."""
    found = await overview.totals(connection)
    latest = await sessions.get(connection, None)
    verdicts: dict[str, list[dict[str, Any]]] = {}
    for line in latest.record.get("findings", []) if latest else []:
        verdicts.setdefault(line["experiment"], []).append(line)
    leaders = await users.listing(connection, LEADERS)
    now = datetime.now().astimezone()
    return _environment.get_template("front.html").render(
        project=config.project.name,
        totals={label: found["totals"][key] for key, label in SHOWN.items()},
        experiments=[v for v in await experiments.versions(connection) if v.state != "retired"],
        verdicts=verdicts,
        leaders=[(u, _average(u.average, u.average_at, now)) for u in leaders],
        sessions=await sessions.latest(connection, SESSIONS),
    )


async def session(connection: Connection, config: Config, session_id: int) -> str | None:
    """The page of one session log; None when there is no such session."""
    if await sessions.get(connection, session_id) is None:
        return None
    log = await session_log(connection, config, session_id)
    newer = await sessions.get(connection, session_id + 1)
    return _environment.get_template("session.html").render(
        project=config.project.name,
        session=session_id,
        newer=session_id + 1 if newer else None,
        heading=heading_of(log),
        sections=[
            (heading, [_line(text) for text in "\n".join(lines).split("\n")])
            for heading, lines in sections(log)
        ],
    )


def _line(text: str) -> tuple[int, str]:
    """The indentation of a line in characters, and its text."""
    return len(text) - len(text.lstrip()), text.lstrip()


def _average(average: float, since: datetime | None, now: datetime) -> float:
    return decayed(average, (now - since).total_seconds()) if since else 0.0
