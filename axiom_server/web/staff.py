"""Staff pages behind their own sign-in: queue, alarms, quarantine, deployment, audit log."""

from __future__ import annotations

from datetime import datetime

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from axiom_protocol.text import one_line
from axiom_server.config import Config
from axiom_server.decide.rates import Rate
from axiom_server.errors import ServerError
from axiom_server.pages.environment import render
from axiom_server.project_folder import ProjectFolder
from axiom_server.publish.deploy import Deployed, Order, execute_order
from axiom_server.store import alarms, hosts, staff, statistics, users
from axiom_server.store.database import Pool
from axiom_server.store.web_sessions import STAFF
from axiom_server.web.bodies import BodyBudget
from axiom_server.web.forms import form_token, read_form
from axiom_server.web.page_response import private_page
from axiom_server.web.publication import SCRIPT_FORM_BYTES_MAX, Publication, Tried
from axiom_server.web.refused import Refused
from axiom_server.web.sign_in import SignIn, Visitor, see_other

PASSPHRASE_CHARACTERS_MAX = 1_000
LINES = 200  # of the audit log and of held hosts on the page
WRONG = Rate(burst=5, per_second=1 / 60)  # wrong keys of one address


class _Preview(Exception):
    """Rolls back the transaction of a deployment that is only previewed."""


class Staff:
    """The handlers of the staff pages. One per serving process."""

    def __init__(
        self, config: Config, pool: Pool, budget: BodyBudget, folder: ProjectFolder
    ) -> None:
        self._config, self._pool, self._budget = config, pool, budget
        self._publication = Publication(folder)
        self._sign_in = SignIn(
            pool, budget, STAFF, cookie="axiom_staff", path="/staff", wrong=WRONG,
            refusal=("Staff only", "Sign in at /staff/sign-in."),
        )  # fmt: skip

    def routes(self) -> list[Route]:
        """The staff pages."""
        return [
            Route("/staff", self.overview),
            Route("/staff/sign-in", self.sign_in, methods=["GET", "POST"]),
            Route("/staff/deploy", self.deploy, methods=["POST"]),
            Route("/staff/publish", self.publish, methods=["GET", "POST"]),
            Route("/staff/host", self.host, methods=["POST"]),
            Route("/staff/sign-out", self.sign_out, methods=["POST"]),
        ]

    async def sign_in(self, request: Request) -> Response:
        """``/staff/sign-in``: by the key that ``axiom-server staff add`` made."""
        if request.method != "POST":
            return self._page("staff_sign_in.html")
        form = await read_form(request, self._budget)
        self._sign_in.throttle(request)
        async with self._pool.connection() as connection, connection.transaction():
            name = await staff.by_key(connection, users.digest(form.text("key")))
            if name is not None:
                await staff.record(connection, name, "signed in")
                return await self._sign_in.begin(connection, request, name, "/staff")
        self._sign_in.count_wrong(request)
        raise Refused(403, "This is not a staff key", "axiom-server staff add creates one.")

    async def overview(self, request: Request) -> Response:
        """``/staff``: queue, watchdog, quarantine, comparisons, deployment, audit log."""
        who = await self._sign_in.visitor(request)
        async with self._pool.connection() as connection:
            found = await statistics.snapshot(connection)
            raised = await alarms.listing(connection)
            held = await staff.quarantined_hosts(connection, LINES)
            compared = await staff.open_comparisons(connection)
            log = await staff.audit_log(connection, LINES)
        return self._page(
            "staff.html", form_token=form_token(who.session), name=who.owner, found=found,
            alarms=raised, at=datetime.fromisoformat(found["at"]),
            held=held, compared=compared, log=log,
        )  # fmt: skip

    async def deploy(self, request: Request) -> Response:
        """``POST /staff/deploy``: a preview first, then the confirmed deployment."""
        who, form = await self._sign_in.form(request)
        names, number = form.text("experiments").split(), form.numbers("count")
        order = Order(names=names, fill_idle=not number, count=number[0] if number else 0)
        confirmed = form.text("confirmed") == "yes"
        try:
            deployed = await self._deploy(who.owner, order, confirmed=confirmed)
        except ServerError as error:
            raise Refused(400, "This cannot be deployed", str(error)) from None
        if confirmed:
            return see_other("/staff")
        return self._page(
            "staff_deploy.html", form_token=form_token(who.session), deployed=deployed,
            experiments=" ".join(names), count=number[0] if number else "",
        )  # fmt: skip

    async def _deploy(self, who: str, order: Order, *, confirmed: bool) -> Deployed:
        """Deploy as the command does; without ``confirmed``, the transaction is rolled back."""
        try:
            async with self._pool.connection() as connection, connection.transaction():
                done = await execute_order(
                    connection, order, self._config.deploy, self._config.standing
                )
                if not confirmed:
                    raise _Preview
                detail = {"experiments": order.names, "workunits": done.workunits}
                await staff.record(connection, who, "deploy", detail)
        except _Preview:
            pass
        return done

    async def publish(self, request: Request) -> Response:
        """``/staff/publish``: first the dry run of a script, then, confirmed, its publication."""
        if request.method != "POST":
            who = await self._sign_in.visitor(request)
            return self._publish_page(who, None)
        who, form = await self._sign_in.form(request, SCRIPT_FORM_BYTES_MAX)
        source, confirmed = form.script("script"), form.text("confirmed") == "yes"
        try:
            tried = await self._publication.tried(source)
            if not confirmed:
                return self._publish_page(who, tried)
            async with self._pool.connection() as connection, connection.transaction():
                ref = await self._publication.publish(
                    connection, tried, form.text("passphrase", PASSPHRASE_CHARACTERS_MAX)
                )
                await staff.record(connection, who.owner, "publish", {"published": [ref]})
        except ServerError as error:
            raise Refused(400, "This cannot be published", str(error)) from None
        return see_other("/staff")

    def _publish_page(self, who: Visitor[str], tried: Tried | None) -> Response:
        return self._page(
            "staff_publish.html", form_token=form_token(who.session), tried=tried,
            encrypted=self._publication.encrypted, key_here=self._publication.key_here,
        )  # fmt: skip

    async def host(self, request: Request) -> Response:
        """``POST /staff/host``: quarantine a host, or release one."""
        who, form = await self._sign_in.form(request)
        host_id, state = (form.numbers("host") or [0])[0], form.text("state")
        if state not in ("quarantined", "active"):
            raise Refused(400, "A host has no such state", "Load the page again.")
        reason = one_line(form.text("reason")) or "by staff"
        async with self._pool.connection() as connection, connection.transaction():
            reason = reason if state == "quarantined" else ""
            if not await hosts.set_state(connection, host_id, state, reason):
                raise Refused(404, "No such host")
            detail = {"host": host_id, "reason": reason}
            await staff.record(connection, who.owner, f"host {state}", detail)
        return see_other("/staff")

    async def sign_out(self, request: Request) -> Response:
        """``POST /staff/sign-out``."""
        who, _ = await self._sign_in.form(request)
        async with self._pool.connection() as connection:
            await self._sign_in.end(connection, who)
        return see_other("/staff/sign-in")

    def _page(self, template: str, **values: object) -> Response:
        project = self._config.project.name
        return private_page(render(template, project=project, path="/staff", **values))
