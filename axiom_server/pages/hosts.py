"""Pages of one host: what everybody may see of it, and what its owner alone does."""

from __future__ import annotations

from typing import Any

from axiom_server.config import Config
from axiom_server.pages.environment import average_now, render
from axiom_server.store import own_hosts, statistics, volunteers
from axiom_server.store.database import Connection

SESSIONS = 20  # latest sessions listed
TASKS = 50  # in hand, and lately ended, that the owner is shown


async def public_host(connection: Connection, config: Config, host_id: int) -> str | None:
    """One host's public page; None when there is none, or its owner is hidden."""
    found = await volunteers.host(connection, host_id)
    if found is None:
        return None
    return render(
        "host.html", project=config.project.name, path=f"/hosts/{host_id}", host=found,
        average=average_now(found.average, found.average_at),
        running=await volunteers.tasks_running(connection, host_id),
        sessions=await statistics.sessions_of(connection, "host", host_id, SESSIONS),
        gpus=[g.get("name", "") for g in found.facts.get("gpus", [])],
    )  # fmt: skip


async def own_host(
    connection: Connection, config: Config, user_id: int, host_id: int
) -> dict[str, Any] | None:
    """What a host's owner is shown of it; None when it is not a host of this user."""
    host = await own_hosts.get(connection, user_id, host_id)
    if host is None:
        return None
    return {
        "host": host, "policy": config.replication,
        "trusted": host.trusted or host.agreements >= config.replication.trusted_after,
        "outcomes": await volunteers.outcomes(connection, host_id),
        "in_hand": await own_hosts.tasks_in_hand(connection, host_id, TASKS),
        "ended": await own_hosts.tasks_ended(connection, host_id, TASKS),
        "mismatches": await own_hosts.mismatches(connection, host_id, TASKS),
    }  # fmt: skip
