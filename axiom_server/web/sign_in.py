"""Signing in to private pages: a cookie, a session, and a limit on wrong keys."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Generic

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from axiom_server.decide.rates import Meter, Rate
from axiom_server.store import users
from axiom_server.store.database import Connection, Pool
from axiom_server.store.web_sessions import Owner, Sessions
from axiom_server.web.bodies import BodyBudget
from axiom_server.web.forms import FORM_BYTES_MAX, Form, check_token, read_form
from axiom_server.web.page_response import SAFE_HEADERS
from axiom_server.web.rate_limits import network_of
from axiom_server.web.refused import Refused


@dataclass(frozen=True, kw_only=True)
class Visitor(Generic[Owner]):
    """The signed-in sender of a request. ``session``: the cookie's value."""

    owner: Owner
    session: str


class SignIn(Generic[Owner]):
    """Signs in volunteers or staff. One of each per serving process.

    cookie   name of the cookie; browsers send it only below ``path``
    path     common path of the pages, such as "/staff"; the sign-in page is below it
    wrong    how many wrong keys one address may send
    refusal  title and detail of the answer to visitors who are not signed in
    """

    def __init__(
        self, pool: Pool, budget: BodyBudget, sessions: Sessions[Owner], *, cookie: str, path: str,
        wrong: Rate, refusal: tuple[str, str],
    ) -> None:  # fmt: skip
        self._pool, self._budget = pool, budget
        self._sessions: Sessions[Owner] = sessions
        self._cookie, self._path, self._refusal = cookie, path, refusal
        self._wrong = Meter(wrong)

    def throttle(self, request: Request) -> None:
        """Raises Refused: 429, this address has sent too many wrong keys."""
        if wait := self._wrong.debt(network_of(request.scope), time.monotonic()):
            raise Refused(429, "Too many wrong keys", f"Try again in {wait:.0f} seconds.", wait)

    def count_wrong(self, request: Request) -> None:
        """Count a wrong key."""
        self._wrong.charge(network_of(request.scope), time.monotonic(), 1)

    async def begin(
        self, connection: Connection, request: Request, owner: Owner, page: str
    ) -> Response:
        """Begin a session; the answer sets the cookie and redirects to ``page``."""
        session, stored = users.new_secret()
        await self._sessions.begin(connection, owner, stored)
        answer = see_other(page)
        answer.set_cookie(
            self._cookie, session, max_age=int(self._sessions.seconds), path=self._path,
            secure=request.url.scheme == "https", httponly=True, samesite="strict",
        )  # fmt: skip
        return answer

    async def end(self, connection: Connection, visitor: Visitor[Owner]) -> None:
        """End the visitor's session."""
        await self._sessions.end(connection, users.digest(visitor.session))

    async def owner(self, request: Request) -> Owner | None:
        """The signed-in sender of the request; None when nobody is signed in."""
        session = request.cookies.get(self._cookie, "")
        async with self._pool.connection() as connection:
            return await self._sessions.owner_of(connection, users.digest(session))

    async def visitor(self, request: Request) -> Visitor[Owner]:
        """The signed-in sender of the request. Raises Refused: 401, nobody is signed in."""
        owner = await self.owner(request)
        if owner is None:
            raise Refused(401, *self._refusal)
        return Visitor(owner=owner, session=request.cookies.get(self._cookie, ""))

    async def form(
        self, request: Request, bytes_max: int = FORM_BYTES_MAX
    ) -> tuple[Visitor[Owner], Form]:
        """Who sent a form of these pages, and the form. Raises Refused."""
        visitor = await self.visitor(request)
        form = await read_form(request, self._budget, bytes_max)
        check_token(form, visitor.session)
        return visitor, form


def see_other(path: str) -> RedirectResponse:
    """Redirect a browser after a form (303)."""
    return RedirectResponse(path, 303, SAFE_HEADERS | {"cache-control": "no-store"})
