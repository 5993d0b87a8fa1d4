"""The network: decode, one transaction, encode. Every refusal is a Problem that says what to do."""

from __future__ import annotations

import re
import time
import zlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec
import psycopg
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, HTMLResponse, Response
from starlette.routing import Route

from axiom_protocol import __version__
from axiom_protocol.messages import (
    BODY_BYTES_MAX,
    PROTOCOL_VERSION,
    EnrolAnswer,
    EnrolRequest,
    Problem,
    ProjectInfo,
    SyncRequest,
)
from axiom_protocol.text import one_line, plain_message
from axiom_server.config import Config
from axiom_server.maintenance import Maintenance
from axiom_server.pages import render
from axiom_server.publish import deploy
from axiom_server.store import hosts, users
from axiom_server.store.database import HEAD, Connection, Pool, row
from axiom_server.sync.batcher import SyncBatcher
from axiom_server.sync.transaction import TokenUnknown
from axiom_server.web import openapi
from axiom_server.web.metrics import Metrics

GZIP_WINDOW = 16 + zlib.MAX_WBITS  # zlib: expect a gzip header
GZIP_BYTES_MIN = 2_000  # shorter answers are not worth compressing
NAME_LENGTH_MAX = 100
WHOLE_MAX = 2.0**60  # as messages.Bytes: a float of such a size is a whole number
#: Pages run no script and load nothing from elsewhere, whatever a volunteer's name holds.
PAGE_HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}
#: What may be asked of the bundles' folder; 255 bytes is what a file system takes for a name.
BUNDLE_FILE = re.compile(r"[A-Za-z0-9][\w.@-]{0,254}", re.ASCII)
SESSION_NUMBER = re.compile(r"[1-9][0-9]{0,17}")  # of PostgreSQL's bigint
T = TypeVar("T")

_encode = msgspec.json.Encoder().encode
_decode_sync = msgspec.json.Decoder(SyncRequest).decode
_decode_enrol = msgspec.json.Decoder(EnrolRequest).decode


class Refused(Exception):
    """A request that is not answered; ``problem`` tells the client why."""

    def __init__(self, status: int, title: str, detail: str = "") -> None:
        super().__init__(title)
        self.problem = Problem(title=title, detail=detail[:2000], status=status)


@dataclass(frozen=True, kw_only=True)
class Api:
    """What the handlers share. One per serving process."""

    config: Config
    bundles: Path  # the TUF repository's folder
    pool: Pool
    batcher: SyncBatcher
    metrics: Metrics

    async def project(self, request: Request) -> Response:
        """``GET /api/v1/project``."""
        info = ProjectInfo(
            name=self.config.project.name,
            server_version=__version__,
            anonymous_hosts=self.config.project.anonymous_hosts,
        )
        return answer(request, info)

    async def enrol(self, request: Request) -> Response:
        """``POST /api/v1/hosts``: a new host, of an account or with a new one."""
        asked = decode(_decode_enrol, await body(request))
        _check_version(asked.protocol_version)
        facts = plain_message(asked.host)
        async with self.pool.connection() as connection, connection.transaction():
            user_id, user, key = await self._account(connection, asked)
            token, stored = users.new_secret()
            host_id = await hosts.enrol(connection, user_id, facts, stored)
            await deploy.fill_new_host(connection, host_id, self.config.deploy)
        made = EnrolAnswer(host_id=host_id, token=token, user=user, account_key=key)
        return answer(request, made, status=201)

    async def _account(self, connection: Connection, asked: EnrolRequest) -> tuple[int, str, str]:
        if asked.account_key:
            found = await users.by_key(connection, users.digest(asked.account_key))
            if found is None:
                raise Refused(403, "No account has this key", "Check the key, or leave it out.")
            return (*found, "")
        if not self.config.project.anonymous_hosts:
            raise Refused(403, "This project asks for an account key", "Ask its staff for one.")
        key, stored = users.new_secret()
        name = one_line(asked.user)[:NAME_LENGTH_MAX]
        name = name or f"volunteer-{stored.hex()[:8]}"
        user_id = await users.create(connection, name, stored)
        if user_id is None:
            raise Refused(
                409, f"The name {name!r} is taken"[:200],
                "Choose another name, or give the account's key if it is yours.",
            )  # fmt: skip
        return user_id, name, key

    async def sync(self, request: Request) -> Response:
        """``POST /api/v1/sync``."""
        began = time.perf_counter()
        token = bearer(request)
        asked = decode(_decode_sync, await body(request))
        _check_version(asked.protocol_version)
        if asked.host is not None:
            asked = msgspec.structs.replace(asked, host=plain_message(asked.host))
        try:
            said = await self.batcher.sync(users.digest(token), asked)
        except TokenUnknown:
            raise Refused(
                401, "This host is not known here", "Attach it again: axiom-client attach URL"
            ) from None
        self.metrics.saw(asked, said, time.perf_counter() - began)
        return answer(request, said)

    async def bundle_file(self, request: Request) -> Response:
        """``GET /bundles/...``: the signed metadata and the experiments, as files."""
        kind, name = request.path_params["kind"], request.path_params["name"]
        path = self.bundles / kind / name
        known = kind in ("metadata", "targets") and BUNDLE_FILE.fullmatch(name)
        if not known or not path.is_file():
            raise Refused(404, "No such file in the bundles")
        return FileResponse(path)

    async def front(self, request: Request) -> Response:
        """``GET /``: the project at a glance."""
        async with self.pool.connection() as connection:
            text = await render.front(connection, self.config)
        return HTMLResponse(text, headers=PAGE_HEADERS)

    async def session(self, request: Request) -> Response:
        """``GET /sessions/N``: one session log."""
        number = request.path_params["number"]
        text = None
        if SESSION_NUMBER.fullmatch(number):
            async with self.pool.connection() as connection:
                text = await render.session(connection, self.config, int(number))
        if text is None:
            raise Refused(404, "No such session")
        return HTMLResponse(text, headers=PAGE_HEADERS)

    async def description(self, request: Request) -> Response:
        """``GET /openapi.json``: this interface, for machines."""
        return Response(_encode(openapi.document()), media_type="application/json")

    async def measures(self, request: Request) -> Response:
        """``GET /metrics``: for Prometheus."""
        async with self.pool.connection() as connection:
            text = await self.metrics.text(connection)
        return Response(text, media_type="text/plain; version=0.0.4")

    async def health(self, request: Request) -> Response:
        """``GET /healthz``: the process answers."""
        return Response("ok\n", media_type="text/plain")

    async def ready(self, request: Request) -> Response:
        """``GET /readyz``: the database answers, with the schema of this program."""
        try:
            async with self.pool.connection(timeout=5) as connection:
                found = await row(connection, "SELECT version_num FROM alembic_version")
        except (psycopg.OperationalError, TimeoutError) as error:
            raise Refused(503, "The database does not answer", str(error)) from None
        if found[0] != HEAD:
            raise Refused(503, "The database has another schema", f"{found[0]}, not {HEAD}")
        return Response("ready\n", media_type="text/plain")


def application(api: Api, maintenance: Maintenance) -> Starlette:
    """The ASGI application; it owns the pool and the rounds for its lifetime."""

    @asynccontextmanager
    async def life(_app: Starlette) -> AsyncIterator[None]:
        await api.pool.open()
        async with maintenance.running():
            yield
        await api.pool.close()

    return Starlette(
        routes=[
            Route("/api/v1/project", api.project),
            Route("/api/v1/hosts", api.enrol, methods=["POST"]),
            Route("/api/v1/sync", api.sync, methods=["POST"]),
            Route("/bundles/{kind}/{name}", api.bundle_file),
            Route("/", api.front),
            Route("/sessions/{number}", api.session),
            Route("/openapi.json", api.description),
            Route("/metrics", api.measures),
            Route("/healthz", api.health),
            Route("/readyz", api.ready),
        ],
        exception_handlers={
            Refused: _refused,
            psycopg.OperationalError: _database_gone,
            404: _not_found,
            405: _not_found,
        },
        lifespan=life,
    )


def bearer(request: Request) -> str:
    """The host token of the request. Raises Refused."""
    kind, _, token = request.headers.get("authorization", "").partition(" ")
    if kind.lower() != "bearer" or not token.strip():
        raise Refused(401, "A host token is needed", "Send it as: Authorization: Bearer TOKEN")
    return token.strip()


async def body(request: Request) -> bytes:
    """The request's body, unpacked, and never more than BODY_BYTES_MAX of it. Raises Refused."""
    encoding = request.headers.get("content-encoding", "identity").lower()
    if encoding not in ("identity", "gzip", ""):
        raise Refused(415, f"Content-Encoding {encoding!r} is not understood"[:200], "Use gzip.")
    unpacker = zlib.decompressobj(GZIP_WINDOW) if encoding == "gzip" else None
    parts, size = [], 0
    try:
        async for chunk in request.stream():
            if unpacker is not None:
                chunk = unpacker.decompress(chunk, BODY_BYTES_MAX + 1 - size)
            size += len(chunk)
            if size > BODY_BYTES_MAX or (unpacker is not None and unpacker.unconsumed_tail):
                raise Refused(
                    413, "The body is too large", f"At most {BODY_BYTES_MAX} bytes unpacked."
                )
            parts.append(chunk)
    except zlib.error:
        raise Refused(400, "The body is not gzip") from None
    except ClientDisconnect:
        raise Refused(400, "The body ends too early") from None
    if unpacker is not None and not unpacker.eof:
        raise Refused(400, "The gzip body ends too early")
    return b"".join(parts)


def decode(decoder: Callable[[bytes], T], raw: bytes) -> T:
    """Decode a message. Raises Refused with the field that is wrong."""
    try:
        try:
            return decoder(raw)
        except msgspec.ValidationError as error:
            if "Expected `int`, got `float`" not in str(error):
                raise
            # In JSON, 4.0 is a whole number too, and some languages write it so.
            return decoder(_encode(_whole(msgspec.json.decode(raw))))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refused(400, "The message is not understood", str(error)) from None


def _whole(value: object) -> object:
    """The same with 4 for 4.0, wherever a floating point number holds every whole one."""
    if isinstance(value, float) and value.is_integer() and abs(value) <= WHOLE_MAX:
        return int(value)
    if isinstance(value, list):
        return [_whole(item) for item in value]
    if isinstance(value, dict):
        return {key: _whole(item) for key, item in value.items()}
    return value


def answer(request: Request, message: msgspec.Struct, status: int = 200) -> Response:
    """Encode a message, compressed when it is long and the client takes that."""
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
            426, "This server speaks another protocol version",
            f"It speaks {PROTOCOL_VERSION}, not {version}: update the older side.",
        )  # fmt: skip


def _problem(problem: Problem, headers: Mapping[str, str] | None = None) -> Response:
    return Response(
        _encode(problem), problem.status, headers, media_type="application/problem+json"
    )


async def _refused(_request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return _problem(error.problem)


async def _database_gone(_request: Request, error: Exception) -> Response:
    return _problem(
        Problem(title="The database does not answer", detail=str(error)[:2000], status=503)
    )


async def _not_found(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 404)
    title = "No such page" if status == 404 else "This method is not offered here"
    problem = Problem(title=title, detail=request.url.path[:200], status=status)
    return _problem(problem, getattr(error, "headers", None))  # 405: which methods are
