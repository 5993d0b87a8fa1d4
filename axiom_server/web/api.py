"""The HTTP interface for agents: decode a request, run one transaction, encode the answer.

Every refusal is a Problem (RFC 9457) whose text says what to do.
"""

from __future__ import annotations

import re
import time
import zlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import msgspec
import psycopg
import structlog
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from axiom_protocol import __version__
from axiom_protocol.messages import (
    PROTOCOL_VERSION,
    AccountLink,
    EnrolAnswer,
    EnrolRequest,
    Problem,
    ProjectInfo,
    SyncAnswer,
    SyncRequest,
)
from axiom_protocol.text import one_line, plain_message
from axiom_server.config import Config
from axiom_server.maintenance.rounds import Maintenance
from axiom_server.project_folder import ProjectFolder
from axiom_server.publish import deploy
from axiom_server.store import epochs, hosts, standing, users, web_sessions
from axiom_server.store.database import HEAD, Connection, Pool, row
from axiom_server.store.web_sessions import LINK_SECONDS
from axiom_server.sync.batcher import SyncBatcher
from axiom_server.sync.transaction import TokenUnknown
from axiom_server.trust.repository import Repository
from axiom_server.web import openapi
from axiom_server.web.accounts import Accounts
from axiom_server.web.bodies import (
    GZIP_WINDOW,
    STRANGERS_BUDGET_BYTES,
    BodyBudget,
    body,
    decode,
    decoder,
)
from axiom_server.web.checked_names import checked_name
from axiom_server.web.known_tokens import KnownTokens, host_unknown
from axiom_server.web.message_page import message_page, wants_page
from axiom_server.web.metrics import Metrics
from axiom_server.web.page_refresh import PageRefresh
from axiom_server.web.pages import public_routes
from axiom_server.web.rate_limits import JoinLimits, joined_from
from axiom_server.web.refused import Refused
from axiom_server.web.staff import Staff
from axiom_server.web.statistics_files import StatisticsFiles
from axiom_server.web.sync_queue import SyncQueue

ENROL_BYTES_MAX = 1024 * 1024  # enough for 64 GPUs with texts of the largest allowed length
RETRY_SECONDS = 30.0  # Retry-After when the database does not answer
GZIP_BYTES_MIN = 2_000  # shorter answers are not worth compressing
#: Names of files that the bundles' folder serves; file systems allow 255 bytes.
BUNDLE_FILE = re.compile(r"[A-Za-z0-9][\w.@-]{0,254}", re.ASCII)

_encode = msgspec.json.Encoder().encode
_decode_sync = decoder(SyncRequest)
_decode_enrol = decoder(EnrolRequest)


@dataclass(frozen=True, kw_only=True)
class Api:
    """The handlers, and what they share. One per serving process."""

    config: Config
    bundles: Path  # the TUF repository's folder
    pool: Pool
    batcher: SyncBatcher
    metrics: Metrics
    page_pool: Pool | None = None  # for the pages and accounts; None: the same as ``pool``
    queue: SyncQueue = field(default_factory=SyncQueue)
    lookups: SyncQueue = field(default_factory=SyncQueue)  # of tokens that are not known yet
    budget: BodyBudget = field(default_factory=BodyBudget)
    strangers: BodyBudget = field(
        default_factory=lambda: BodyBudget(total_bytes=STRANGERS_BUDGET_BYTES)
    )

    @cached_property
    def joins(self) -> JoinLimits:
        """The limits on joining hosts."""
        return JoinLimits(self.config.limits)

    @cached_property
    def known(self) -> KnownTokens:
        """The tokens that are known to belong to a host."""
        return KnownTokens(self.pool, self.config.limits)

    async def project(self, request: Request) -> Response:
        """``GET /api/v1/project``."""
        epoch = self.batcher.catalogue.epoch
        if epoch is None:
            async with self.pool.connection() as connection:
                epoch = await epochs.current(connection)
        info = ProjectInfo(
            epoch=epoch.epoch,
            name=self.config.project.name,
            server_version=__version__,
            anonymous_hosts=self.config.project.anonymous_hosts,
        )
        return answer(request, info)

    async def enrol(self, request: Request) -> Response:
        """``POST /api/v1/hosts``: a host joins, with an existing account or a new one."""
        async with body(request, self.strangers, ENROL_BYTES_MAX) as raw:
            enrol = decode(_decode_enrol, raw)
        _check_version(enrol.protocol_version)
        facts = plain_message(enrol.host)
        self.joins.admit(request.scope, new_account=not enrol.account_key)
        async with self.pool.connection() as connection, connection.transaction():
            user_id, user, key = await self._account(connection, enrol, joined_from(request.scope))
            token, stored = users.new_secret()
            host_id = await hosts.enrol(connection, user_id, facts, stored)
            await deploy.fill_new_host(
                connection, host_id, self.config.deploy, self.config.standing
            )
        made = EnrolAnswer(host_id=host_id, token=token, user=user, account_key=key)
        return answer(request, made, status=201)

    async def _account(
        self, connection: Connection, enrol: EnrolRequest, address: str
    ) -> tuple[int, str, str]:
        """(user id, name, new account key or "") of the account that a host joins."""
        if enrol.account_key:
            found = await users.by_key(connection, users.digest(enrol.account_key))
            if found is None:
                raise Refused(403, "No account has this key", "Check the key, or leave it out.")
            if found.state == "quarantined":
                raise Refused(
                    403, "This account is quarantined", found.state_reason or "Ask the staff."
                )
            most = self.config.standing.newcomer_hosts
            if not await standing.may_add_host(connection, found.user_id, most):
                raise Refused(
                    403, "This account has as many hosts as its standing allows",
                    "More may join as its results are confirmed, or when staff vouch for it.",
                )  # fmt: skip
            return found.user_id, found.name, ""
        if not self.config.project.anonymous_hosts:
            raise Refused(403, "This project requires an account key", "Ask its staff for one.")
        key, stored = users.new_secret()
        name = checked_name(enrol.user) if one_line(enrol.user) else ""
        name = name or f"volunteer-{stored.hex()[:8]}"
        user_id = await users.create(connection, name, stored, address)
        if user_id is None:
            raise Refused(
                409, f"The name {name!r} is taken, or looks like a name that is"[:200],
                "Choose another name, or give the account's key if it is yours.",
            )  # fmt: skip
        return user_id, name, key

    async def sync(self, request: Request) -> Response:
        """``POST /api/v1/sync``."""
        began = time.perf_counter()
        token = users.digest(bearer(request))
        await self._check_token(token)
        self.queue.admit()
        async with body(request, self.budget) as raw:
            self.known.charge(token, len(raw))
            sync = decode(_decode_sync, raw)
            del raw
            _check_version(sync.protocol_version)
            if sync.host is not None:
                sync = msgspec.structs.replace(sync, host=plain_message(sync.host))
            with self.queue.waiting():
                answered = await self._answer_sync(token, sync)
        self.queue.count_answer()
        self.metrics.count_sync(sync, answered, time.perf_counter() - began)
        return answer(request, answered)

    async def _check_token(self, token: bytes) -> None:
        """New tokens wait in a queue of their own: strangers take no place of known hosts."""
        if token in self.known:
            await self.known.check(token)
            return
        self.lookups.admit()
        try:
            with self.lookups.waiting():
                await self.known.check(token)
        finally:
            self.lookups.count_answer()

    async def _answer_sync(self, token: bytes, sync: SyncRequest) -> SyncAnswer:
        try:
            answered = await self.batcher.sync(token, sync)
        except TokenUnknown:
            self.known.forget(token)
            raise host_unknown() from None
        if is_detach_of_0_1_0(sync):
            await self._revoke(token)
        return answered

    async def account_link(self, request: Request) -> Response:
        """``POST /api/v1/account-links``: a one-time link that signs in the owner of this host."""
        token = users.digest(bearer(request))
        await self.known.check(token)
        secret, stored = users.new_secret()
        async with self.pool.connection() as connection, connection.transaction():
            if not await web_sessions.make_link(connection, token, stored):
                raise Refused(409, "This host belongs to no account", "Attach it to one.")
        link = AccountLink(path=f"/account/link/{secret}", expires_seconds=LINK_SECONDS)
        return answer(request, link, status=201)

    async def leave(self, request: Request) -> Response:
        """``DELETE /api/v1/hosts/self``: the host detaches, and its token is revoked."""
        token = users.digest(bearer(request))
        await self.known.check(token)
        await self._revoke(token)
        return Response(status_code=204)

    async def _revoke(self, token: bytes) -> None:
        self.known.forget(token)
        async with self.pool.connection() as connection:
            await hosts.detach(connection, token)

    async def bundle_file(self, request: Request) -> Response:
        """``GET /bundles/...``: the signed metadata and the experiments, as files."""
        kind, name = request.path_params["kind"], request.path_params["name"]
        path = self.bundles / kind / name
        known = kind in ("metadata", "targets") and BUNDLE_FILE.fullmatch(name)
        if not known or not path.is_file():
            raise Refused(404, "No such file in the bundles")
        return FileResponse(path)

    async def description(self, request: Request) -> Response:
        """``GET /openapi.json``: the description of this interface."""
        return Response(_encode(openapi.document()), media_type="application/json")

    async def metrics_text(self, request: Request) -> Response:
        """``GET /metrics``: measurements in Prometheus's text format."""
        async with self.pool.connection() as connection:
            text = await self.metrics.text(connection)
        return Response(text, media_type="text/plain; version=0.0.4")

    async def health(self, request: Request) -> Response:
        """``GET /healthz``: whether the process answers."""
        return Response("ok\n", media_type="text/plain")

    async def ready(self, request: Request) -> Response:
        """``GET /readyz``: whether the database answers, and has the schema of this program."""
        try:
            async with self.pool.connection(timeout=5) as connection:
                found = await row(connection, "SELECT version_num FROM alembic_version")
        except (psycopg.OperationalError, TimeoutError) as error:
            raise _no_database(error) from None
        if found[0] != HEAD:
            raise Refused(503, "The database has another schema", f"{found[0]}, not {HEAD}")
        return Response("ready\n", media_type="text/plain")


def application(
    api: Api, maintenance: Maintenance, refresh: PageRefresh | None = None
) -> Starlette:
    """The ASGI application; its lifespan opens and closes the pool and runs the periodic work."""

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        await api.pool.open()
        if api.page_pool is not None:
            await api.page_pool.open()
        async with maintenance.running(), refresh.running() if refresh else nullcontext():
            yield
        await api.pool.close()
        if api.page_pool is not None:
            await api.page_pool.close()

    pages = api.page_pool or api.pool
    app = Starlette(
        routes=[
            Route("/api/v1/project", api.project),
            Route("/api/v1/hosts", api.enrol, methods=["POST"]),
            Route("/api/v1/hosts/self", api.leave, methods=["DELETE"]),
            Route("/api/v1/account-links", api.account_link, methods=["POST"]),
            Route("/api/v1/sync", api.sync, methods=["POST"]),
            Route("/bundles/{kind}/{name}", api.bundle_file),
            *public_routes(api.config, pages, Repository(api.bundles)),
            *Accounts(api.config, pages, api.strangers).routes(),
            *Staff(api.config, api.pool, api.strangers, ProjectFolder(api.bundles.parent)).routes(),
            *StatisticsFiles(folder=api.bundles.parent / "stats", pool=api.pool).routes(),
            Route("/openapi.json", api.description),
            Route("/metrics", api.metrics_text),
            Route("/healthz", api.health),
            Route("/readyz", api.ready),
        ],
        exception_handlers={
            Refused: _refused,
            psycopg.OperationalError: _database_unreachable,
            404: _not_found,
            405: _not_found,
            Exception: _internal_error,
        },
        lifespan=lifespan,
    )
    app.state.project = api.config.project.name
    return app


def bearer(request: Request) -> str:
    """The host token of the request. Raises Refused."""
    kind, _, token = request.headers.get("authorization", "").partition(" ")
    if kind.lower() != "bearer" or not token.strip():
        raise Refused(401, "A host token is needed", "Send it as: Authorization: Bearer TOKEN")
    return token.strip()


def is_detach_of_0_1_0(sync: SyncRequest) -> bool:
    """Whether this is the last sync of a 0.1.0 agent that detaches; no other request follows."""
    return sync.draining == "detached" and sync.request_id.startswith("detach-")


def answer(request: Request, message: msgspec.Struct, status: int = 200) -> Response:
    """Encode a message, compressed if it is long and the client accepts gzip."""
    raw = _encode(message)
    headers = {"content-type": "application/json"}
    if len(raw) >= GZIP_BYTES_MIN and "gzip" in request.headers.get("accept-encoding", ""):
        packer = zlib.compressobj(1, zlib.DEFLATED, GZIP_WINDOW)
        raw = packer.compress(raw) + packer.flush()
        headers["content-encoding"] = "gzip"
    return Response(raw, status, headers)


def _check_version(version: int) -> None:
    if version != PROTOCOL_VERSION:
        raise Refused(
            426, "This server uses another protocol version",
            f"It uses {PROTOCOL_VERSION}, not {version}: update the older side.",
        )  # fmt: skip


def _problem(problem: Problem, headers: Mapping[str, str] | None = None) -> Response:
    return Response(
        _encode(problem), problem.status, headers, media_type="application/problem+json"
    )


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return _refusal(request, error.problem, error.headers)


def _refusal(
    request: Request, problem: Problem, headers: Mapping[str, str] | None = None
) -> Response:
    """A refusal: a page for browsers, a Problem for other clients."""
    if not wants_page(request):
        return _problem(problem, headers)
    project = request.app.state.project
    return message_page(request, project, problem, headers)


async def _database_unreachable(request: Request, error: Exception) -> Response:
    refused = _no_database(error)
    return _refusal(request, refused.problem, refused.headers)


def _no_database(error: Exception) -> Refused:
    """The refusal. The database's message names addresses, so it is logged and not sent."""
    structlog.get_logger().error("the database does not answer", error=str(error)[:2000])
    return Refused(
        503, "The database does not answer",
        f"Try again after {RETRY_SECONDS:.0f} seconds.", RETRY_SECONDS,
    )  # fmt: skip


async def _internal_error(request: Request, _error: Exception) -> Response:
    """The answer to an internal error, whose traceback goes to the log."""
    return _refusal(
        request,
        Problem(title="The server has a fault", detail="It is logged; tell its staff.", status=500),
    )


async def _not_found(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 404)
    title = "No such page" if status == 404 else "This method is not offered here"
    problem = Problem(title=title, detail=request.url.path[:200], status=status)
    return _refusal(request, problem, getattr(error, "headers", None))  # 405 has Allow
