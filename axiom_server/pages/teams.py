"""Pages of teams, and their leaderboards."""

from __future__ import annotations

from axiom_server.config import Config
from axiom_server.pages.environment import average_now, render
from axiom_server.store import experiments, teams
from axiom_server.store.database import Connection
from axiom_server.store.teams import TeamOrder, TeamRow

LEADERS = 100  # on one page
MEMBERS = 100  # listed of one team
PAGES_MAX = 100
ORDERS: dict[TeamOrder, str] = {
    "total": "Credit", "recent": "Recent average", "day": "Today (UTC)"
}  # fmt: skip


async def leaders(connection: Connection, config: Config, order: TeamOrder, page: int) -> str:
    """Teams by credit, recent average or today's credit."""
    offset = (page - 1) * LEADERS
    found = await teams.leaders(connection, order, LEADERS + 1, offset)
    return await _listing(connection, config, found, page, order=order)


async def leaders_of_experiment(
    connection: Connection, config: Config, name: str, page: int
) -> str | None:
    """Teams by their credit with one experiment; None when there is none of this name."""
    experiment_id = await experiments.id_of(connection, name)
    if experiment_id is None:
        return None
    offset = (page - 1) * LEADERS
    found = await teams.leaders_of_experiment(connection, experiment_id, LEADERS + 1, offset)
    return await _listing(connection, config, found, page, experiment=name)


async def _listing(
    connection: Connection, config: Config, found: list[TeamRow], page: int,
    order: TeamOrder | None = None, experiment: str | None = None,
) -> str:  # fmt: skip
    base = f"/leaders/{experiment}/teams?" if experiment else f"/teams?order={order}&"
    return render(
        "teams.html", project=config.project.name,
        path=f"/leaders/{experiment}/teams" if experiment else "/teams",
        title=f"Teams by {experiment}" if experiment else "Teams", orders=ORDERS, order=order,
        experiment=experiment, experiments=await experiments.names(connection),
        teams=found[:LEADERS], offset=(page - 1) * LEADERS, page=page, base=base,
        more=len(found) > LEADERS and page < PAGES_MAX,
        earned=experiment is not None or order == "day",
    )  # fmt: skip


async def team(connection: Connection, config: Config, team_id: int) -> str | None:
    """One team with its members; None when there is none of this id."""
    found = await teams.get(connection, team_id)
    if found is None:
        return None
    members = await teams.members(connection, team_id, MEMBERS)
    return render(
        "team.html", project=config.project.name, path=f"/teams/{team_id}", team=found,
        members=[(u, average_now(u.average, u.average_at)) for u in members],
        experiments=await teams.experiments_of(connection, team_id),
    )  # fmt: skip
