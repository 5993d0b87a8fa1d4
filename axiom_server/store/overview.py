"""The project's totals, queue and alarms."""

from __future__ import annotations

from typing import Any

from axiom_server.store import alarms, workunits
from axiom_server.store.database import Connection, row


async def totals(connection: Connection) -> dict[str, Any]:
    """Totals, the queue of each experiment, and alarms."""
    found = await row(
        connection,
        """SELECT (SELECT count(*) FROM users), (SELECT count(*) FROM hosts),
                  (SELECT count(*) FROM hosts
                   WHERE last_seen_at > now() - interval '30 minutes' AND NOT imported),
                  (SELECT count(*) FROM queue),
                  (SELECT count(*) FROM tasks WHERE state = 'leased'),
                  (SELECT count(*) FROM tasks WHERE state = 'reported'),
                  (SELECT count(*) FROM comparisons
                   WHERE state IN ('wanted', 'placed', 'disputed')),
                  (SELECT COALESCE(sum(results), 0)::bigint FROM sessions),
                  (SELECT COALESCE(sum(credit), 0)::float8 FROM sessions)""",
    )
    names = (
        "users", "hosts", "live_hosts", "queued", "leased", "to_review", "under_comparison",
        "credited_results", "credit",
    )  # fmt: skip
    return {
        "totals": dict(zip(names, found, strict=True)),
        "experiments": [
            {"name": name, "pool": pool, "held": held, "leased": leased}
            for name, pool, held, leased in await workunits.queue_counts(connection)
        ],
        "alarms": [line._asdict() for line in await alarms.listing(connection)],
    }
