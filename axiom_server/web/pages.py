"""The routes of the public pages; those of the files behind them are in ``page_files``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from axiom_server.config import Config
from axiom_server.pages import (
    experiments,
    front,
    hosts,
    sessions,
    status,
    studies,
    teams,
    volunteers,
)
from axiom_server.store.database import Connection, Pool
from axiom_server.trust.repository import Repository
from axiom_server.web.page_files import PageFiles
from axiom_server.web.page_limits import PageLimits
from axiom_server.web.page_response import public_page
from axiom_server.web.paths import number_of, page_of, text_of
from axiom_server.web.refused import Refused

Show = Callable[[Connection], Awaitable[str | None]]


def public_routes(config: Config, pool: Pool, bundles: Repository) -> list[Route]:
    """Every public page and file, within the limits of pages. Once per serving process."""
    limits = PageLimits()
    pages = Pages(config=config, pool=pool, bundles=bundles)
    files = PageFiles(config=config, pool=pool, bundles=bundles)
    return [
        Route(route.path, limits.limited(route.endpoint))
        for route in (*pages.routes(), *files.routes())
    ]


@dataclass(frozen=True, kw_only=True)
class Pages:
    """The handlers of the public pages. One per serving process."""

    config: Config
    pool: Pool
    bundles: Repository

    def routes(self) -> list[Route]:
        """Every public page."""
        return [
            Route("/", self.front),
            Route("/experiments", self.experiments),
            Route("/experiments/{name}", self.experiment),
            Route("/experiments/{name}/{version}", self.experiment),
            Route("/studies", self.studies),
            Route("/studies/{name}", self.study),
            Route("/leaders", self.leaders),
            Route("/leaders/{name}", self.leaders_of_experiment),
            Route("/leaders/{name}/teams", self.teams_of_experiment),
            Route("/users/{number}", self.user),
            Route("/hosts/{number}", self.host),
            Route("/teams", self.teams),
            Route("/teams/{number}", self.team),
            Route("/sessions", self.sessions),
            Route("/sessions/{number}", self.session),
            Route("/status", self.status),
        ]

    async def _page(self, request: Request, show: Show, missing: str) -> Response:
        """The page that ``show`` renders; 404 with ``missing`` when it returns None."""
        async with self.pool.connection() as connection:
            text = await show(connection)
        if text is None:
            raise Refused(404, missing)
        return public_page(request, text)

    async def front(self, request: Request) -> Response:
        """``GET /``: the front page."""
        url = str(request.base_url).rstrip("/")
        return await self._page(request, lambda c: front.front(c, self.config, url), "")

    async def experiments(self, request: Request) -> Response:
        """``GET /experiments``: every experiment."""
        return await self._page(request, lambda c: experiments.listing(c, self.config), "")

    async def experiment(self, request: Request) -> Response:
        """``GET /experiments/NAME[/VERSION]``: one experiment."""
        name, version = request.path_params["name"], request.path_params.get("version")
        return await self._page(
            request,
            lambda c: experiments.one(c, self.config, self.bundles, name, version),
            "No such experiment",
        )

    async def studies(self, request: Request) -> Response:
        """``GET /studies``: every study."""
        return await self._page(request, lambda c: studies.listing(c, self.config), "")

    async def study(self, request: Request) -> Response:
        """``GET /studies/NAME``: one study."""
        name = text_of(request, "name", "No such study")
        return await self._page(
            request, lambda c: studies.one(c, self.config, name), "No such study"
        )

    async def leaders(self, request: Request) -> Response:
        """``GET /leaders?order=total|recent|day&page=N``."""
        order = request.query_params.get("order", "total")
        if order not in volunteers.ORDERS:
            raise Refused(404, "No such order", "It is total, recent or day.")
        page = page_of(request)
        return await self._page(
            request, lambda c: volunteers.leaders(c, self.config, order, page), ""
        )

    async def leaders_of_experiment(self, request: Request) -> Response:
        """``GET /leaders/NAME?page=N``: by the credit of one experiment."""
        name, page = text_of(request, "name", "No such experiment"), page_of(request)
        return await self._page(
            request,
            lambda c: volunteers.leaders_of_experiment(c, self.config, name, page),
            "No such experiment",
        )

    async def user(self, request: Request) -> Response:
        """``GET /users/N``: one volunteer."""
        user_id = number_of(request, "number", "No such volunteer")
        return await self._page(
            request, lambda c: volunteers.user(c, self.config, user_id), "No such volunteer"
        )

    async def host(self, request: Request) -> Response:
        """``GET /hosts/N``: the public page of one host."""
        host_id = number_of(request, "number", "No such host")
        return await self._page(
            request, lambda c: hosts.public_host(c, self.config, host_id), "No such host"
        )

    async def teams(self, request: Request) -> Response:
        """``GET /teams?order=total|recent|day&page=N``."""
        order = request.query_params.get("order", "total")
        if order not in teams.ORDERS:
            raise Refused(404, "No such order", "It is total, recent or day.")
        page = page_of(request)
        return await self._page(request, lambda c: teams.leaders(c, self.config, order, page), "")

    async def teams_of_experiment(self, request: Request) -> Response:
        """``GET /leaders/NAME/teams?page=N``: by the credit of one experiment."""
        name, page = text_of(request, "name", "No such experiment"), page_of(request)
        return await self._page(
            request,
            lambda c: teams.leaders_of_experiment(c, self.config, name, page),
            "No such experiment",
        )

    async def team(self, request: Request) -> Response:
        """``GET /teams/N``: one team."""
        team_id = number_of(request, "number", "No such team")
        return await self._page(
            request, lambda c: teams.team(c, self.config, team_id), "No such team"
        )

    async def sessions(self, request: Request) -> Response:
        """``GET /sessions``: the latest sessions."""
        return await self._page(request, lambda c: sessions.listing(c, self.config), "")

    async def session(self, request: Request) -> Response:
        """``GET /sessions/N?page=M``: one session log."""
        session_id = number_of(request, "number", "No such session")
        page = page_of(request, sessions.PAGES_MAX)
        return await self._page(
            request, lambda c: sessions.one(c, self.config, session_id, page), "No such session"
        )

    async def status(self, request: Request) -> Response:
        """``GET /status``: the server's status."""
        return await self._page(request, lambda c: status.page(c, self.config), "")
