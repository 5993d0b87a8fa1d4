"""The project's HTTP interface. Every failure is raised as a ProjectProblem."""

from __future__ import annotations

import asyncio
import gzip
import re
import ssl
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from axiom_client.errors import (
    BadValue,
    HostRefused,
    NotAnAxiomServer,
    ProjectProblem,
    RequestRefused,
    ServerNotThere,
    VersionMismatch,
)
from axiom_client.project.answers import (
    ACCEPT_ENCODING,
    UnusableAnswer,
    read_body,
    retry_after_seconds,
)
from axiom_client.project.slim_httpx import httpx
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

CONNECT_SECONDS = 15.0  # a satellite link connects within a few
ANSWER_SECONDS = 60.0  # a loaded server may take its time; the request is safe to repeat
EXCHANGE_SECONDS = 120.0  # for a whole request and answer; 4 MB of reports at 40 kB/s
GZIP_FROM_BYTES = 1_000  # smaller bodies are not worth compressing

_TOKEN = re.compile(r"[!-~]{1,500}")  # it becomes a header of every request
T = TypeVar("T", bound=Struct)


class Overloaded(ProjectProblem):
    """The server asks the agent to try again later."""

    def __init__(self, message: str, retry_after_seconds: float) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class Network(Struct, frozen=True, kw_only=True):
    """The network settings, a part of the configuration."""

    proxy: str = ""
    ca_bundle: str = ""


class Traffic(Struct, kw_only=True):
    """Bytes of request and answer bodies, as compressed for transfer."""

    sent_bytes: int = 0
    received_bytes: int = 0


def trust(url: str, ca_bundle: str) -> ssl.SSLContext | bool:
    """The certificates to trust: the system's, or ``ca_bundle``; False for http on loopback.

    Raises BadValue if the file contains no certificates.
    """
    if not url.startswith("https"):
        return False
    if ca_bundle:
        try:
            return ssl.create_default_context(cafile=ca_bundle)
        except OSError as error:  # an ssl.SSLError is one
            raise BadValue(
                f"network.ca_bundle = {ca_bundle!r} contains no usable certificates: {error}"
            ) from None
    import truststore

    return truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


class Api:
    """The requests that an agent makes. Raises ProjectProblem, never httpx's errors."""

    def __init__(
        self, url: str, network: Network, token: str = "", traffic: Traffic | None = None
    ) -> None:
        self._url = url
        self._client = httpx.AsyncClient(
            headers={
                "Accept-Encoding": ACCEPT_ENCODING,
                **({"Authorization": f"Bearer {token}"} if token else {}),
            },
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
            verify=trust(url, network.ca_bundle),
            proxy=network.proxy or None,
            timeout=httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS),
            follow_redirects=False,
        )
        self.traffic = traffic or Traffic()

    async def close(self) -> None:
        """Close the connection."""
        await self._client.aclose()

    async def project(self) -> ProjectInfo:
        """Information on the project; checks that an Axiom server of a usable version answers."""
        info = await self._call("GET", "/api/v1/project", None, ProjectInfo)
        if not info.oldest_protocol_version <= PROTOCOL_VERSION:
            raise VersionMismatch(
                f"{info.name} no longer supports this agent's protocol, version "
                f"{PROTOCOL_VERSION}; update axiom-client"
            )
        if info.protocol_version < PROTOCOL_VERSION:
            raise VersionMismatch(
                f"{info.name} runs an older server than this agent can use "
                f"(protocol {info.protocol_version}, not {PROTOCOL_VERSION}); tell its staff"
            )
        return info

    async def enrol(self, request: EnrolRequest) -> EnrolAnswer:
        """Join as a host."""
        answer = await self._call("POST", "/api/v1/hosts", request, EnrolAnswer)
        if not _TOKEN.fullmatch(answer.token):
            raise self._not_axiom()
        return answer

    async def sync(self, request: SyncRequest) -> SyncAnswer:
        """Exchange everything with the server in one request: reports, tasks in hand, grants."""
        return await self._call("POST", "/api/v1/sync", request, SyncAnswer)

    async def account_link(self) -> AccountLink:
        """Request a link that signs this host's owner in once."""
        return await self._call("POST", "/api/v1/account-links", None, AccountLink)

    async def detach(self) -> None:
        """Revoke this host's token. Servers of 0.1.0 do not know this request."""
        path = "/api/v1/hosts/self"
        status, answer, headers = await self._exchange("DELETE", path, b"", {})
        if status >= 300 and status not in (404, 405):
            raise self._refusal(status, answer, headers)

    async def _call(self, method: str, path: str, body: Struct | None, kind: type[T]) -> T:
        headers = {}
        content = b""
        if body is not None:
            content = msgspec.json.encode(body)
            headers["Content-Type"] = "application/json"
            if len(content) > GZIP_FROM_BYTES:
                content = gzip.compress(content, compresslevel=5)
                headers["Content-Encoding"] = "gzip"
        self.traffic.sent_bytes += len(content)
        status, answer, answer_headers = await self._exchange(method, path, content, headers)
        if status >= 300:
            raise self._refusal(status, answer, answer_headers)
        try:
            return plain_message(msgspec.json.decode(answer, type=kind))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise self._not_axiom() from None

    async def _exchange(
        self, method: str, path: str, content: bytes, headers: dict[str, str]
    ) -> tuple[int, bytes, httpx.Headers]:
        try:
            async with asyncio.timeout(EXCHANGE_SECONDS):
                return await self._stream(method, path, content, headers)
        except TimeoutError:
            raise ServerNotThere(
                f"{self._url} took over {EXCHANGE_SECONDS:g} s for one answer; try again later"
            ) from None
        except UnusableAnswer:
            raise self._not_axiom() from None
        except httpx.RemoteProtocolError:
            raise ServerNotThere(
                f"{self._url} closed the connection in the middle of an answer; try again later"
            ) from None
        except httpx.ProxyError as error:
            raise ServerNotThere(f"the proxy refused: {error}; check network.proxy") from None
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError) as error:
            raise ServerNotThere(self._why_not_there(error)) from None

    async def _stream(
        self, method: str, path: str, content: bytes, headers: dict[str, str]
    ) -> tuple[int, bytes, httpx.Headers]:
        async with self._client.stream(
            method, self._url + path, content=content or None, headers=headers
        ) as response:
            answer = await read_body(response)
            self.traffic.received_bytes += response.num_bytes_downloaded
            return response.status_code, answer, response.headers

    def _why_not_there(self, error: Exception) -> str:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, ssl.SSLCertVerificationError):
                return (
                    f"the certificate of {self._url} cannot be verified ({cause.verify_message}); "
                    "check this computer's clock, or name the certificate in network.ca_bundle"
                )
            cause = cause.__cause__ or cause.__context__
        if isinstance(error, httpx.TimeoutException):
            return f"{self._url} did not answer in time; check the address and the network"
        return f"nothing answers at {self._url}; check the address, or try again later"

    def _not_axiom(self) -> NotAnAxiomServer:
        return NotAnAxiomServer(
            f"what answers at {self._url} is not an Axiom server; check the project's address"
        )

    def _refusal(self, status: int, answer: bytes, headers: httpx.Headers) -> ProjectProblem:
        try:
            problem: Any = msgspec.json.decode(answer, type=Problem)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            problem = None
        text = _in_sentences(problem.title, problem.detail) if problem else ""
        text = text or f"status {status}"
        if status in (429, 502, 503, 504):
            seconds = retry_after_seconds(headers.get("retry-after", ""))
            return Overloaded(f"{self._url} is busy ({text})", seconds)
        if problem is None and status < 500:
            return self._not_axiom()
        if status in (401, 403):
            return HostRefused(f"{self._url} does not accept this host: {text}")
        if status >= 500:
            return ServerNotThere(f"{self._url} has an internal error ({text}); try again later")
        return RequestRefused(f"{self._url} refused: {text}")


def _in_sentences(title: str, detail: str) -> str:
    """A problem's title and detail on one line, the title ended by a full stop."""
    title, detail = one_line(title), one_line(detail)
    stop = "" if not title or not detail or title.endswith((".", "!", "?", ":", ";")) else "."
    return f"{title}{stop} {detail}".strip()
