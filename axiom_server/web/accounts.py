"""Pages of a volunteer's own account: signing in, machines, name, team, keys and data."""

from __future__ import annotations

from msgspec import structs
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from axiom_protocol.messages import HostSettings
from axiom_protocol.text import one_line
from axiom_server.config import Config
from axiom_server.decide.names import NAME_CHARACTERS_MAX
from axiom_server.decide.rates import Rate
from axiom_server.pages import hosts
from axiom_server.pages.environment import render
from axiom_server.store import accounts, machines, users, web_sessions
from axiom_server.store.database import Connection, Pool
from axiom_server.store.machines import GROUPS_MAX
from axiom_server.store.web_sessions import VOLUNTEERS
from axiom_server.web.bodies import BodyBudget
from axiom_server.web.checked_names import checked_name
from axiom_server.web.forms import Form, form_token, read_form
from axiom_server.web.page_response import SAFE_HEADERS, private_page
from axiom_server.web.paths import number_of
from axiom_server.web.refused import Refused
from axiom_server.web.sign_in import SignIn, Visitor, see_other

MACHINES = "/account/machines"
GROUP_CHARACTERS_MAX = 60
#: Wrong keys and links allowed from one address: ten at once, then one a minute.
WRONG = Rate(burst=10, per_second=1 / 60)


SignedIn = Visitor[int]


class Accounts:
    """The handlers of the account's pages. One per serving process."""

    def __init__(self, config: Config, pool: Pool, budget: BodyBudget) -> None:
        self._config, self._pool, self._budget = config, pool, budget
        self._sign_in = SignIn(
            pool, budget, VOLUNTEERS, cookie="axiom_session", path="/account", wrong=WRONG,
            refusal=("Sign in first", "At /account/sign-in, or by a link from a host."),
        )  # fmt: skip

    def routes(self) -> list[Route]:
        """The account's pages."""
        return [
            Route("/account", self.account),
            Route("/account/sign-in", self.sign_in, methods=["GET", "POST"]),
            Route("/account/link/{link}", self.use_link, methods=["GET", "POST"]),
            Route("/account/machines", self.machines, methods=["GET", "POST"]),
            Route("/account/hosts/{number}", self.host),
            Route("/account/data.json", self.data),
            Route("/account/{action}", self.act, methods=["POST"]),
        ]

    # --- signing in -------------------------------------------------------------------------------

    async def sign_in(self, request: Request) -> Response:
        """``/account/sign-in``: by account key."""
        if request.method != "POST":
            known = await self._sign_in.owner(request) is not None
            return see_other("/account") if known else self._page("sign_in.html", request)
        form = await read_form(request, self._budget)
        self._sign_in.throttle(request)
        async with self._pool.connection() as connection, connection.transaction():
            found = await users.by_key(connection, users.digest(form.text("key")))
            if found is not None:
                return await self._sign_in.begin(connection, request, found.user_id, MACHINES)
        self._sign_in.count_wrong(request)
        raise Refused(403, "No account has this key", "Check it, or open a link from a host.")

    async def use_link(self, request: Request) -> Response:
        """``/account/link/LINK``: a page with a button, because programs may follow links."""
        if request.method != "POST":
            return self._page("link.html", request)
        await read_form(request, self._budget)
        self._sign_in.throttle(request)
        async with self._pool.connection() as connection, connection.transaction():
            link = users.digest(request.path_params["link"])
            user_id = await web_sessions.use_link(connection, link)
            if user_id is not None:
                return await self._sign_in.begin(connection, request, user_id, MACHINES)
        self._sign_in.count_wrong(request)
        raise Refused(403, "This link is used or too old", "Make one: axiom-client account open")

    # --- pages ------------------------------------------------------------------------------------

    async def machines(self, request: Request) -> Response:
        """``/account/machines``: every host, and the form that sets their limits."""
        if request.method == "POST":
            who, form = await self._sign_in.form(request)
            await self._set(who, form)
            return see_other(MACHINES)
        who = await self._sign_in.visitor(request)
        async with self._pool.connection() as connection:
            found = await machines.listing(connection, who.owner)
            modes = await machines.modes(connection, who.owner)
        url = str(request.base_url).rstrip("/")
        return self._page("machines.html", request, who, machines=found, modes=modes, url=url)

    async def host(self, request: Request) -> Response:
        """``/account/hosts/N``: what only the owner of a host sees of it."""
        who = await self._sign_in.visitor(request)
        host_id = number_of(request, "number", "No such host of yours")
        async with self._pool.connection() as connection:
            found = await hosts.own_host(connection, self._config, who.owner, host_id)
        if found is None:
            raise Refused(404, "No such host of yours", "They are at /account/machines.")
        return self._page("own_host.html", request, who, **found)

    async def _set(self, who: SignedIn, form: Form) -> None:
        chosen, group = form.numbers("host"), one_line(form.text("group", GROUP_CHARACTERS_MAX))
        async with self._pool.connection() as connection, connection.transaction():
            match form.text("what"):
                case "group":
                    await machines.put_in_group(connection, who.owner, chosen, group)
                case "limit group":
                    if not await machines.set_group(connection, who.owner, group, _settings(form)):
                        raise Refused(
                            409,
                            "Too many groups",
                            f"An account can have at most {GROUPS_MAX} groups.",
                        )
                case "limit all":
                    await machines.set_hosts(connection, who.owner, None, _settings(form))
                case "limit":
                    await machines.set_hosts(connection, who.owner, chosen, _settings(form))
                case "pause" | "drain" | "resume" as what:
                    await _pause_or_drain(connection, who, chosen, what)
                case "name mode" | "switch mode" | "forget mode" as what:
                    await _set_mode(connection, who, form, what)
                case _:
                    raise Refused(400, "This page has no such button", "Load it again.")

    async def account(self, request: Request) -> Response:
        """``/account``: name, visibility, keys, data."""
        who = await self._sign_in.visitor(request)
        async with self._pool.connection() as connection:
            me = await accounts.get(connection, who.owner)
        return self._page("account.html", request, who, me=me, new_key="")

    async def data(self, request: Request) -> Response:
        """``/account/data.json``: everything stored about the visitor."""
        who = await self._sign_in.visitor(request)
        async with self._pool.connection() as connection:
            raw = await accounts.everything(connection, who.owner)
        return Response(
            raw, headers=SAFE_HEADERS | {"cache-control": "no-store"},
            media_type="application/json",
        )  # fmt: skip

    async def act(self, request: Request) -> Response:
        """``POST /account/ACTION``: the forms of the account's page."""
        who, form = await self._sign_in.form(request)
        async with self._pool.connection() as connection, connection.transaction():
            match request.path_params["action"]:
                case "key":
                    key, stored = users.new_secret()
                    await accounts.set_key(connection, who.owner, stored, users.digest(who.session))
                    me = await accounts.get(connection, who.owner)
                    return self._page("account.html", request, who, me=me, new_key=key)
                case "shown":
                    shown = form.text("shown") == "yes"
                    await accounts.set_shown(connection, who.owner, shown=shown)
                case "name" | "team-found" | "team-join" | "team-leave" | "team-name" as action:
                    await self._name_or_team(connection, who, form, action)
                case "merge":
                    old, new = (form.numbers(name)[:1] or [0] for name in ("old", "new"))
                    if not await accounts.merge_hosts(connection, who.owner, old[0], new[0]):
                        raise Refused(
                            400, "These are not two hosts of yours", "Give their numbers."
                        )
                case "delete":
                    if form.text("sure") != "delete":
                        raise Refused(400, "Nothing was deleted", "Type the word delete.")
                    await accounts.delete(connection, who.owner)
                    return see_other("/")
                case "sign-out":
                    await self._sign_in.end(connection, who)
                case "sign-out-everywhere":
                    await web_sessions.close_all(connection, who.owner)
                case _:
                    raise Refused(404, "No such page")
        return see_other("/account")

    async def _name_or_team(
        self, connection: Connection, who: SignedIn, form: Form, action: str
    ) -> None:
        named = action in ("name", "team-found", "team-name")
        name = checked_name(form.text("name", NAME_CHARACTERS_MAX)) if named else ""
        match action:
            case "name":
                done = await accounts.rename(connection, who.owner, name)
            case "team-found":
                done = await accounts.found_team(connection, who.owner, name)
            case "team-name":
                done = await accounts.rename_team(connection, who.owner, name)
            case "team-join":
                team_id = (form.numbers("team") or [0])[0]
                done = await accounts.enter_team(connection, who.owner, team_id)
            case _:
                await accounts.leave_team(connection, who.owner)
                done = True
        if not done:
            raise Refused(409, "This name or team is not available", "Choose another one.")

    def _page(
        self, template: str, request: Request, who: SignedIn | None = None, **values: object
    ) -> Response:
        path = "/account/link" if template == "link.html" else request.url.path
        token = form_token(who.session) if who else ""
        return private_page(
            render(
                template, project=self._config.project.name, path=path, form_token=token, **values
            )
        )


async def _pause_or_drain(
    connection: Connection, who: SignedIn, chosen: list[int], what: str
) -> None:
    for machine in await machines.listing(connection, who.owner):
        if machine.host_id in chosen:
            settings = structs.replace(
                machines.settings_of(machine), paused=what == "pause", draining=what == "drain"
            )
            await machines.set_hosts(connection, who.owner, [machine.host_id], settings)


async def _set_mode(connection: Connection, who: SignedIn, form: Form, what: str) -> None:
    """Name a mode with the limits of the form, switch to one ("": none), or delete one."""
    name = one_line(form.text("mode", GROUP_CHARACTERS_MAX))
    if what == "forget mode":
        await machines.forget_mode(connection, who.owner, name)
    elif what == "switch mode":
        if not await machines.switch_mode(connection, who.owner, name):
            raise Refused(400, f"There is no mode {name!r}", "Name it first, with its limits.")
    elif not name:
        raise Refused(400, "This mode has no name", "Write one, such as night.")
    elif not await machines.name_mode(connection, who.owner, name, _settings(form)):
        raise Refused(400, "There are too many modes", f"Delete one: {machines.MODES_MAX} are.")


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


def _whole(text: str, limit: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 8 and int(text) <= limit):
        raise Refused(400, f"{text!r} is not a whole number up to {limit}"[:200], "Correct it.")
    return int(text)


def _hours(begin: str, end: str) -> list[tuple[int, int]]:
    """The same hours on all seven days, possibly across midnight; none when both are empty."""
    if not begin and not end:
        return []
    start, stop = _minute(begin), _minute(end)
    length = (stop - start) % 1440 or 1440
    return [(day * 1440 + start, day * 1440 + start + length) for day in range(7)]


def _minute(text: str) -> int:
    hours, _, minutes = text.partition(":")
    return _whole(hours, 23) * 60 + _whole(minutes, 59)
