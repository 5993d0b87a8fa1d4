"""The front page: experiments with their findings, totals, and how to join."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from axiom_server.config import Config
from axiom_server.pages.environment import render
from axiom_server.pages.experiments import DECIDED, newest_of, views
from axiom_server.store import experiments, finding_values, sessions, statistics
from axiom_server.store.database import Connection

SESSIONS = 5  # latest sessions listed
FINDINGS = 5  # latest findings listed
#: Totals on the front page, with their labels.
SHOWN = {
    "users": "volunteers", "live_hosts": "hosts online", "cores": "cores online",
    "gpus": "GPUs online", "leased": "tasks running", "credited_results": "results credited",
    "credit": "credit",
}  # fmt: skip


async def front(connection: Connection, config: Config, url: str) -> str:
    """The front page. ``url`` is the address that agents attach to."""
    found = await statistics.snapshot(connection)
    newest = [v for v in newest_of(await experiments.versions(connection)) if v.state != "retired"]
    stored = await finding_values.verdicts(connection)
    return render(
        "front.html", project=config.project.name, path="/", url=url,
        totals={label: found["totals"][key] for key, label in SHOWN.items()},
        at=datetime.fromisoformat(found["at"]),
        experiments=[(v, views(v, stored.get(v.version_id, []))) for v in newest],
        sessions=await sessions.latest(connection, SESSIONS),
        newest=latest([line for lines in stored.values() for line in lines]),
    )  # fmt: skip


def latest(verdicts: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The verdicts that were given last; of one review, those that decide come first."""
    known = [line for line in verdicts if line["seeds"]]
    known.sort(key=lambda v: (v["judged_at"], v["verdict"] in DECIDED), reverse=True)
    return known[:FINDINGS]
