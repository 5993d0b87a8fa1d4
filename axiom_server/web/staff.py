"""Staff's pages behind their own sign-in: the queue, what is held, deployment, the audit log."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from axiom_protocol.text import one_line
from axiom_server.config import Config
from axiom_server.decide.rates import Meter, Rate
from axiom_server.errors import ServerError
from axiom_server.pages.environment import render
from axiom_server.publish.deploy import Deployed, Order, execute_order
from axiom_server.store import hosts, overview, staff, users
from axiom_server.store.database import Pool
from axiom_server.web.bodies import BodyBudget
from axiom_server.web.forms import Form, check_token, form_token, read_form
from axiom_server.web.page_response import SAFE_HEADERS, private_page
from axiom_server.web.rate_limits import network_of
from axiom_server.web.refused import Refused

COOKIE = "axiom_staff"
LINES = 200  # of the audit log and of held hosts on the page
WRONG = Rate(burst=5, per_second=1 / 60)  # wrong keys of one address


class _OnlyTried(Exception):
    """Ends the transaction of a dry run, so that nothing of it is kept."""


@dataclass(frozen=True, kw_only=True)
class Staff:
    """What staff's pages need. One per serving process."""

    config: Config
    pool: Pool
    budget: BodyBudget = field(default_factory=BodyBudget)
    wrong: Meter = field(default_factory=lambda: Meter(WRONG))

    def routes(self) -> list[Route]:
        """Staff's pages."""
        return [
            Route("/staff", self.overview),
            Route("/staff/sign-in", self.sign_in, methods=["GET", "POST"]),
            Route("/staff/deploy", self.deploy, methods=["POST"]),
            Route("/staff/host", self.host, methods=["POST"]),
            Route("/staff/sign-out", self.sign_out, methods=["POST"]),
        ]

    async def sign_in(self, request: Request) -> Response:
        """``/staff/sign-in``: by the key that ``axiom-server staff add`` made."""
        if request.method != "POST":
            return self._page("staff_sign_in.html")
        form = await read_form(request, self.budget)
        address = network_of(request.scope).encode()
        if wait := self.wrong.debt(address, time.monotonic()):
            raise Refused(429, "Too many wrong keys", f"Come back in {wait:.0f} seconds.", wait)
        session, stored = users.new_secret()
        async with self.pool.connection() as connection, connection.transaction():
            name = await staff.by_key(connection, users.digest(form.text("key")))
            if name is not None:
                await staff.open_session(connection, name, stored)
                await staff.record(connection, name, "signed in")
        if name is None:
            self.wrong.charge(address, time.monotonic(), 1)
            raise Refused(403, "This is no staff key", "axiom-server staff add makes one.")
        answer = _to("/staff")
        answer.set_cookie(
            COOKIE, session, max_age=int(staff.SESSION_SECONDS), path="/staff",
            secure=request.url.scheme == "https", httponly=True, samesite="strict",
        )  # fmt: skip
        return answer

    async def _who(self, request: Request) -> tuple[str, str]:
        """The name and the session of who asks. Raises Refused: 401."""
        session = request.cookies.get(COOKIE, "")
        async with self.pool.connection() as connection:
            name = await staff.name_of(connection, users.digest(session))
        if name is None:
            raise Refused(401, "Staff only", "Sign in at /staff/sign-in.")
        return name, session

    async def _form(self, request: Request) -> tuple[str, str, Form]:
        name, session = await self._who(request)
        form = await read_form(request, self.budget)
        check_token(form, session)
        return name, session, form

    async def overview(self, request: Request) -> Response:
        """``/staff``: queue, watchdog, quarantine, comparisons, deployment, audit log."""
        name, session = await self._who(request)
        async with self.pool.connection() as connection:
            found = await overview.totals(connection)
            held = await staff.held_hosts(connection, LINES)
            compared = await staff.open_comparisons(connection)
            log = await staff.audit_log(connection, LINES)
        return self._page(
            "staff.html", form_token=form_token(session), name=name, found=found, held=held,
            compared=compared, log=log,
        )  # fmt: skip

    async def deploy(self, request: Request) -> Response:
        """``POST /staff/deploy``: first what it would do, then, confirmed, the same for good."""
        name, session, form = await self._form(request)
        names, number = form.text("experiments").split(), form.numbers("count")
        order = Order(names=names, fill_idle=not number, count=number[0] if number else 0)
        confirmed = form.text("confirmed") == "yes"
        try:
            deployed = await self._deploy(name, order, confirmed=confirmed)
        except ServerError as error:
            raise Refused(400, "This cannot be deployed", str(error)) from None
        if confirmed:
            return _to("/staff")
        return self._page(
            "staff_deploy.html", form_token=form_token(session), deployed=deployed,
            experiments=" ".join(names), count=number[0] if number else "",
        )  # fmt: skip

    async def _deploy(self, who: str, order: Order, *, confirmed: bool) -> Deployed:
        """As the command does; without ``confirmed`` the transaction is rolled back."""
        try:
            async with self.pool.connection() as connection, connection.transaction():
                done = await execute_order(
                    connection, order, self.config.deploy, self.config.standing
                )
                if not confirmed:
                    raise _OnlyTried
                detail = {"experiments": order.names, "workunits": done.workunits}
                await staff.record(connection, who, "deploy", detail)
        except _OnlyTried:
            pass
        return done

    async def host(self, request: Request) -> Response:
        """``POST /staff/host``: quarantine a host, or release one."""
        name, _, form = await self._form(request)
        host_id, state = (form.numbers("host") or [0])[0], form.text("state")
        if state not in ("quarantined", "active"):
            raise Refused(400, "There is no such state", "Load the page again.")
        reason = one_line(form.text("reason")) or "by staff"
        async with self.pool.connection() as connection, connection.transaction():
            reason = reason if state == "quarantined" else ""
            if not await hosts.set_state(connection, host_id, state, reason):
                raise Refused(404, "No such host")
            detail = {"host": host_id, "reason": reason}
            await staff.record(connection, name, f"host {state}", detail)
        return _to("/staff")

    async def sign_out(self, request: Request) -> Response:
        """``POST /staff/sign-out``."""
        _, session, _ = await self._form(request)
        async with self.pool.connection() as connection:
            await staff.close_session(connection, users.digest(session))
        return _to("/staff/sign-in")

    def _page(self, template: str, **values: object) -> Response:
        project = self.config.project.name
        return private_page(render(template, project=project, path="/staff", **values))


def _to(path: str) -> Response:
    return RedirectResponse(path, 303, SAFE_HEADERS | {"cache-control": "no-store"})
