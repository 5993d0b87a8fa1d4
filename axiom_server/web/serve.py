"""`axiom-server serve`: one process that answers hosts and runs the maintenance until stopped."""

from __future__ import annotations

import errno
import gc
import ipaddress
import logging
import signal
import socket
import ssl
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import structlog
import uvicorn
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from axiom_server.errors import FileUnreadable, PortInUse
from axiom_server.maintenance.rounds import Maintenance
from axiom_server.project_folder import ProjectFolder
from axiom_server.store.database import make_page_pool, make_pool
from axiom_server.sync.batcher import SyncBatcher
from axiom_server.web.api import Api, application
from axiom_server.web.metrics import Metrics
from axiom_server.web.page_refresh import PageRefresh
from axiom_server.web.rate_limits import RateLimits
from axiom_server.web.slow_clients import Connections, RequestDeadlines

#: Connections that wait while the process is busy; the system allows fewer (net.core.somaxconn). A
#: client whose connection finds no room tries again after 1, 3, 7, ... 63 s.
BACKLOG = 65_535
#: Handles of the listening socket. uvloop accepts one connection of each in a turn of its loop, so
#: with one handle, a busy process accepts more slowly than hosts come back after an outage.
LISTENING_HANDLES = 8 if sys.platform != "win32" else 1
STOP_SECONDS = 10  # for requests under way, at a graceful stop


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """The server's TLS certificate: PEM files with the chain and its private key."""

    chain: Path
    key: Path

    def check(self) -> None:
        """Raises FileUnreadable: absent, not PEM, or not a pair."""
        for path in (self.chain, self.key):
            try:
                path.open("rb").close()
            except OSError as error:
                raise FileUnreadable(f"cannot read {path}: {error.strerror}") from None
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
                self.chain, self.key, password=_no_passphrase
            )
        except (ssl.SSLError, ValueError) as error:
            raise FileUnreadable(
                f"{self.chain} and {self.key} are not a certificate and its key: {error}"
            ) from None


def _no_passphrase() -> str:
    raise ValueError("the key is encrypted; serve needs it without a passphrase")


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises PortInUse, whose message says what to do."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise PortInUse(
                f"port {port} on {host} is in use; stop the program there, or give another --port"
            ) from None
        raise PortInUse(f"cannot listen on {host} port {port}: {error.strerror}") from None
    except OverflowError:
        listener.close()
        raise PortInUse(f"{port} is not a port; give one from 1 to 65535") from None
    return listener


def handles(listener: socket.socket) -> list[socket.socket]:
    """The listening socket and more handles of it, all of which accept connections."""
    return [listener, *(listener.dup() for _ in range(LISTENING_HANDLES - 1))]


def is_loopback(host: str) -> bool:
    """Whether an address to listen on is reachable only from this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class _Server(uvicorn.Server):
    """uvicorn's server, without its re-raising of the signal that stopped it."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop gracefully at SIGTERM and SIGINT, and return from ``run`` then."""
        before = {s: signal.signal(s, self.handle_exit) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def serve(
    folder: ProjectFolder, listener: socket.socket, certificate: Certificate | None = None
) -> None:
    """Serve until SIGTERM or SIGINT; requests under way are finished first."""
    config = folder.config()
    configure_logs()
    with folder.database() as conninfo:
        pool = make_pool(conninfo)
        api = Api(
            config=config,
            bundles=folder.bundles.folder,
            pool=pool,
            page_pool=make_page_pool(conninfo),
            batcher=SyncBatcher(pool=pool, config=config),
            metrics=Metrics(),
        )
        maintenance = Maintenance(
            pool=pool,
            config=config,
            bundles=folder.bundles,
            restart_database=folder.database_restarter(),
        )
        connections = Connections(config.limits)
        refresh = PageRefresh(pool=pool, folder=folder.path)
        limited = RateLimits(application(api, maintenance, refresh), config.limits)
        # RequestDeadlines must be outermost, where a client's address is that of its connection.
        forwarded: Any = ProxyHeadersMiddleware(cast(Any, limited), list(config.limits.proxies))
        app = RequestDeadlines(forwarded, connections)
        server = _Server(
            uvicorn.Config(
                app,
                http=connections.protocol,  # type: ignore[arg-type]  # called, not subclassed
                ws="none",
                proxy_headers=False,
                ssl_certfile=certificate.chain if certificate else None,
                ssl_keyfile=certificate.key if certificate else None,
                loop="uvloop" if sys.platform != "win32" else "asyncio",
                access_log=False,
                log_config=None,
                log_level="warning",
                timeout_graceful_shutdown=STOP_SECONDS,
                backlog=BACKLOG,
                server_header=False,
            )
        )
        gc.collect()
        gc.freeze()  # what is imported stays until the end
        server.run(sockets=handles(listener))


def configure_logs() -> None:
    """Structured logs on stderr, one JSON object a line."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(message)s")
