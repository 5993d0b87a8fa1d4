"""Pages of volunteers, hosts and teams, and the leaderboards."""

from __future__ import annotations

from typing import Any

from axiom_server.config import Config
from axiom_server.pages.environment import average_now, render
from axiom_server.store import experiments, finding_values, statistics, volunteers
from axiom_server.store.database import Connection, rows
from axiom_server.store.volunteers import Order

LEADERS = 100  # volunteers on one page
PAGES_MAX = 100  # pages of a leaderboard; volunteers beyond have pages of their own
HOSTS = 200  # hosts listed on a volunteer's page
SESSIONS = 20  # latest sessions listed
DAYS = 30  # in a chart
ORDERS: dict[Order, str] = {
    "total": "Credit", "recent": "Recent average", "day": "Last day"
}  # fmt: skip


async def leaders(connection: Connection, config: Config, order: Order, page: int) -> str:
    """Volunteers by credit, by recent average, or by the credit of the last day."""
    offset = (page - 1) * LEADERS
    found = await volunteers.leaders(connection, order, LEADERS + 1, offset)
    return render(
        "leaders.html", project=config.project.name, path="/leaders", title="Volunteers",
        orders=ORDERS, order=order, lines=[(u, average_now(u.average, u.average_at))
                                           for u in found[:LEADERS]],
        offset=offset, page=page, more=len(found) > LEADERS and page < PAGES_MAX,
        experiments=await experiments.names(connection), earned=order == "day",
        experiment=None, published=False, base=f"/leaders?order={order}",
    )  # fmt: skip


async def leaders_of_experiment(
    connection: Connection, config: Config, name: str, page: int
) -> str | None:
    """Volunteers by their credit with one experiment; None when there is none of this name."""
    found = await rows(connection, "SELECT experiment_id FROM experiments WHERE name = %s", (name,))
    if not found:
        return None
    offset = (page - 1) * LEADERS
    lines = await volunteers.leaders_of_experiment(connection, found[0][0], LEADERS + 1, offset)
    return render(
        "leaders.html", project=config.project.name, path=f"/leaders/{name}",
        title=f"Volunteers by {name}", orders=ORDERS, order=None,
        lines=[(u, average_now(u.average, u.average_at)) for u in lines[:LEADERS]],
        offset=offset, page=page, more=len(lines) > LEADERS and page < PAGES_MAX,
        experiments=await experiments.names(connection), earned=True, base=f"/leaders/{name}?",
        experiment=name, published=await experiments.is_published(connection, name),
    )  # fmt: skip


async def user(connection: Connection, config: Config, user_id: int) -> str | None:
    """One volunteer's page; None when there is none, or the volunteer is hidden."""
    found = await volunteers.user(connection, user_id)
    if found is None:
        return None
    worked_on = await volunteers.experiments_of(connection, user_id)
    return render(
        "user.html", project=config.project.name, path=f"/users/{user_id}", user=found,
        average=average_now(found.average, found.average_at),
        rank=await volunteers.rank(connection, found.credit_total),
        hosts=[(h, average_now(h.average, h.average_at))
               for h in await volunteers.hosts_of(connection, user_id, HOSTS)],
        sessions=await statistics.sessions_of(connection, "user", user_id, SESSIONS),
        experiments=worked_on, findings=await _findings(connection, [w[0] for w in worked_on]),
    )  # fmt: skip


async def _findings(connection: Connection, names: list[str]) -> list[dict[str, Any]]:
    """The findings with a verdict, of the experiments of these names."""
    stored = await finding_values.verdicts(connection)
    lines = [line for verdicts in stored.values() for line in verdicts]
    return [line for line in lines if line["experiment"] in names and line["seeds"]]
