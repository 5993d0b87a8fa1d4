"""Pages of a volunteer's own account: sign in, all machines in one place, keys, data."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from msgspec import structs
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from axiom_protocol.messages import HostSettings
from axiom_protocol.text import one_line
from axiom_server.config import Config
from axiom_server.decide import names
from axiom_server.decide.rates import Meter, Rate
from axiom_server.pages.environment import render
from axiom_server.store import accounts, machines, users, web_sessions
from axiom_server.store.database import Connection, Pool
from axiom_server.web.bodies import BodyBudget
from axiom_server.web.forms import Form, check_token, form_token, read_form
from axiom_server.web.page_response import SAFE_HEADERS, private_page
from axiom_server.web.rate_limits import network_of
from axiom_server.web.refused import Refused

COOKIE = "axiom_session"
GROUP_CHARACTERS_MAX = 60
NAME_CHARACTERS_MAX = 100
#: Wrong keys and links from one address: ten at once, then one in a minute.
WRONG = Rate(burst=10, per_second=1 / 60)


@dataclass(frozen=True, kw_only=True)
class SignedIn:
    """Who sent a request. ``session``: the cookie."""

    user_id: int
    session: str


@dataclass(frozen=True, kw_only=True)
class Accounts:
    """What the account's pages need. One per serving process."""

    config: Config
    pool: Pool
    budget: BodyBudget = field(default_factory=BodyBudget)
    wrong: Meter = field(default_factory=lambda: Meter(WRONG))

    def routes(self) -> list[Route]:
        """The account's pages."""
        return [
            Route("/account", self.account),
            Route("/account/sign-in", self.sign_in, methods=["GET", "POST"]),
            Route("/account/link/{link}", self.use_link, methods=["GET", "POST"]),
            Route("/account/machines", self.machines, methods=["GET", "POST"]),
            Route("/account/data.json", self.data),
            Route("/account/{action}", self.act, methods=["POST"]),
        ]

    # --- signing in -------------------------------------------------------------------------------

    async def sign_in(self, request: Request) -> Response:
        """``/account/sign-in``: by account key."""
        if request.method != "POST":
            known = await self._user_id(request) is not None
            return _to("/account") if known else self._page("sign_in.html", request)
        form = await read_form(request, self.budget)
        self._throttle(request)
        async with self.pool.connection() as connection:
            found = await users.by_key(connection, users.digest(form.text("key")))
        if found is None:
            self._count_wrong(request)
            raise Refused(403, "No account has this key", "Check it, or open a link from a host.")
        return await self._signed_in(request, found.user_id)

    async def use_link(self, request: Request) -> Response:
        """``/account/link/LINK``: a page with a button, as programs follow links by themselves."""
        if request.method != "POST":
            return self._page("link.html", request)
        await read_form(request, self.budget)
        self._throttle(request)
        async with self.pool.connection() as connection:
            link = users.digest(request.path_params["link"])
            user_id = await web_sessions.use_link(connection, link)
        if user_id is None:
            self._count_wrong(request)
            raise Refused(
                403, "This link is used or too old", "Make one: axiom-client account open"
            )
        return await self._signed_in(request, user_id)

    def _throttle(self, request: Request) -> None:
        if wait := self.wrong.debt(network_of(request.scope).encode(), time.monotonic()):
            raise Refused(429, "Too many wrong keys", f"Come back in {wait:.0f} seconds.", wait)

    def _count_wrong(self, request: Request) -> None:
        self.wrong.charge(network_of(request.scope).encode(), time.monotonic(), 1)

    async def _signed_in(self, request: Request, user_id: int) -> Response:
        session, stored = users.new_secret()
        async with self.pool.connection() as connection, connection.transaction():
            await web_sessions.open_session(connection, user_id, stored)
        answer = _to("/account/machines")
        answer.set_cookie(
            COOKIE, session, max_age=int(web_sessions.SESSION_SECONDS), path="/account",
            secure=request.url.scheme == "https", httponly=True, samesite="strict",
        )  # fmt: skip
        return answer

    async def _who(self, request: Request) -> SignedIn:
        """Raises Refused: 401, nobody is signed in."""
        user_id = await self._user_id(request)
        if user_id is None:
            raise Refused(401, "Sign in first", "At /account/sign-in, or by a link from a host.")
        return SignedIn(user_id=user_id, session=request.cookies.get(COOKIE, ""))

    async def _user_id(self, request: Request) -> int | None:
        session = request.cookies.get(COOKIE, "")
        async with self.pool.connection() as connection:
            return await web_sessions.user_of(connection, users.digest(session))

    async def _form(self, request: Request) -> tuple[SignedIn, Form]:
        who = await self._who(request)
        form = await read_form(request, self.budget)
        check_token(form, who.session)
        return who, form

    # --- pages ------------------------------------------------------------------------------------

    async def machines(self, request: Request) -> Response:
        """``/account/machines``: every host, and the form that sets their limits."""
        if request.method == "POST":
            who, form = await self._form(request)
            await self._set(who, form)
            return _to("/account/machines")
        who = await self._who(request)
        async with self.pool.connection() as connection:
            found = await machines.listing(connection, who.user_id)
        return self._page("machines.html", request, who, machines=found)

    async def _set(self, who: SignedIn, form: Form) -> None:
        chosen, group = form.numbers("host"), one_line(form.text("group", GROUP_CHARACTERS_MAX))
        async with self.pool.connection() as connection, connection.transaction():
            match form.text("what"):
                case "group":
                    await machines.put_in_group(connection, who.user_id, chosen, group)
                case "limit group":
                    await machines.set_group(connection, who.user_id, group, _settings(form))
                case "limit all":
                    await machines.set_hosts(connection, who.user_id, None, _settings(form))
                case "limit":
                    await machines.set_hosts(connection, who.user_id, chosen, _settings(form))
                case "pause" | "drain" | "resume" as what:
                    await self._steer(who, chosen, what)
                case _:
                    raise Refused(400, "This page has no such button", "Load it again.")

    async def _steer(self, who: SignedIn, chosen: list[int], what: str) -> None:
        async with self.pool.connection() as connection, connection.transaction():
            for machine in await machines.listing(connection, who.user_id):
                if machine.host_id in chosen:
                    settings = structs.replace(
                        machines.settings_of(machine),
                        paused=what == "pause", draining=what == "drain",
                    )  # fmt: skip
                    await machines.set_hosts(connection, who.user_id, [machine.host_id], settings)

    async def account(self, request: Request) -> Response:
        """``/account``: name, visibility, keys, data."""
        who = await self._who(request)
        async with self.pool.connection() as connection:
            me = await accounts.get(connection, who.user_id)
        return self._page("account.html", request, who, me=me, new_key="")

    async def data(self, request: Request) -> Response:
        """``/account/data.json``: everything about me."""
        who = await self._who(request)
        async with self.pool.connection() as connection:
            raw = await accounts.everything(connection, who.user_id)
        return Response(
            raw, headers=SAFE_HEADERS | {"cache-control": "no-store"},
            media_type="application/json",
        )  # fmt: skip

    async def act(self, request: Request) -> Response:
        """``POST /account/ACTION``: the forms of the account's page."""
        who, form = await self._form(request)
        async with self.pool.connection() as connection, connection.transaction():
            match request.path_params["action"]:
                case "key":
                    key, stored = users.new_secret()
                    await accounts.set_key(connection, who.user_id, stored)
                    me = await accounts.get(connection, who.user_id)
                    return self._page("account.html", request, who, me=me, new_key=key)
                case "shown":
                    shown = form.text("shown") == "yes"
                    await accounts.set_shown(connection, who.user_id, shown=shown)
                case "name" | "team-found" | "team-join" | "team-leave" | "team-name" as action:
                    await self._name_or_team(connection, who, form, action)
                case "merge":
                    old, new = (form.numbers(name)[:1] or [0] for name in ("old", "new"))
                    if not await accounts.merge_hosts(connection, who.user_id, old[0], new[0]):
                        raise Refused(
                            400, "These are not two hosts of yours", "Give their numbers."
                        )
                case "delete":
                    if form.text("sure") != "delete":
                        raise Refused(400, "Nothing was deleted", "Write: delete")
                    await accounts.delete(connection, who.user_id)
                    return _to("/")
                case "sign-out":
                    await web_sessions.close_session(connection, users.digest(who.session))
                case "sign-out-everywhere":
                    await web_sessions.close_all(connection, who.user_id)
                case _:
                    raise Refused(404, "No such page")
        return _to("/account")

    async def _name_or_team(
        self, connection: Connection, who: SignedIn, form: Form, action: str
    ) -> None:
        name = one_line(form.text("name", NAME_CHARACTERS_MAX))
        if action in ("name", "team-found", "team-name") and (why := names.refusal(name)):
            raise Refused(400, "Nobody can have this name", f"{why}: choose another name.")
        match action:
            case "name":
                done = await accounts.rename(connection, who.user_id, name)
            case "team-found":
                done = await accounts.found_team(connection, who.user_id, name)
            case "team-name":
                done = await accounts.rename_team(connection, who.user_id, name)
            case "team-join":
                team_id = (form.numbers("team") or [0])[0]
                done = await accounts.enter_team(connection, who.user_id, team_id)
            case _:
                await accounts.leave_team(connection, who.user_id)
                done = True
        if not done:
            raise Refused(409, "This name or team cannot be had", "Choose another one.")

    def _page(
        self, template: str, request: Request, who: SignedIn | None = None, **values: object
    ) -> Response:
        path = "/account/link" if template == "link.html" else request.url.path
        token = form_token(who.session) if who else ""
        return private_page(
            render(
                template, project=self.config.project.name, path=path, form_token=token, **values
            )
        )


def _settings(form: Form) -> HostSettings:
    """The limits of a form; empty fields set none. Raises Refused."""
    share, cores, gpus = form.text("share"), form.text("cores"), form.text("gpus")
    return HostSettings(
        cpu_share=None if not share else _whole(share, 100) / 100,
        cpu_cores=None if not cores else _whole(cores, 1_000_000),
        gpus=None if not gpus else _whole(gpus, 1024),
        on_battery=False if form.text("battery") == "no" else None,
        schedule=_hours(form.text("from"), form.text("until")),
    )


def _whole(text: str, most: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 8 and int(text) <= most):
        raise Refused(400, f"{text!r} is not a whole number up to {most}"[:200], "Correct it.")
    return int(text)


def _hours(begin: str, end: str) -> list[tuple[int, int]]:
    """The same hours on all seven days, across midnight too; none when both are empty."""
    if not begin and not end:
        return []
    start, stop = _minute(begin), _minute(end)
    length = (stop - start) % 1440 or 1440
    return [(day * 1440 + start, day * 1440 + start + length) for day in range(7)]


def _minute(text: str) -> int:
    hours, _, minutes = text.partition(":")
    return _whole(hours, 23) * 60 + _whole(minutes, 59)


def _to(path: str) -> Response:
    return RedirectResponse(path, 303, SAFE_HEADERS | {"cache-control": "no-store"})
