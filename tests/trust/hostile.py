"""A project with real keys, and a web server on loopback that can serve forged bundles."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, Targets, Timestamp

from axiom_client.project.bundles import BundleStore
from axiom_client.project.fetching import HttpFetcher
from axiom_server.trust.keys import Keys, Role, init_keys, load_keys
from axiom_server.trust.metadata import Clock, sign, utc_now
from axiom_server.trust.repository import Published, Repository

SOURCE = Path(__file__).parents[1] / "fixtures" / "experiments" / "short_walk.py"

#: A function that sends the answer for a path, instead of its file.
Trick = Callable[[BaseHTTPRequestHandler], None]


def script(version: str = "1.0.0", name: str = "short_walk", remark: str = "") -> bytes:
    """An experiment; ``remark`` makes other bytes of the same version."""
    text = SOURCE.read_text().replace('name = "short_walk"', f'name = "{name}"')
    return (text.replace('version = "1.0.0"', f'version = "{version}"') + remark).encode()


class Project:
    """The keys and bundles of a project."""

    def __init__(
        self,
        folder: Path,
        *,
        clock: Clock = utc_now,
        counts: dict[Role, int] | None = None,
        thresholds: dict[Role, int] | None = None,
    ) -> None:
        self.folder = folder
        init_keys(folder / "keys", None, counts)
        self.keys = load_keys(folder / "keys")
        self.repository = Repository(folder / "bundles", clock=clock)
        self.repository.create(self.keys, thresholds)

    @property
    def metadata(self) -> Path:
        return self.folder / "bundles" / "metadata"

    @property
    def snapshot_name(self) -> str:
        """The current snapshot's file."""
        return f"{self.repository.metadata.snapshot().signed.version}.snapshot.json"

    def publish(self, version: str = "1.0.0", name: str = "short_walk") -> Published:
        return self.repository.publish(script(version, name), self.keys)

    def copy(self, to: Path) -> Path:
        """The bundles as they are now, for an attacker to serve later."""
        shutil.copytree(self.folder / "bundles", to)
        return to


def forge(
    project: Project,
    role: Role,
    change: Callable[[Root | Targets | Snapshot | Timestamp], None],
    keys: Keys,
) -> bytes:
    """The current metadata of a role, changed, and signed with the keys an attacker has."""
    current = getattr(project.repository.metadata, role)()
    metadata: Metadata[Timestamp] = Metadata(current.signed)
    change(metadata.signed)
    sign(metadata, keys.of(role))
    return metadata.to_bytes()


def meta_file(data: bytes) -> MetaFile:
    """How a snapshot or a timestamp names these bytes."""
    return MetaFile.from_data(Metadata.from_bytes(data).signed.version, data, ["sha256"])


def own_keys(folder: Path) -> Keys:
    """An attacker's own keys, which no root names."""
    init_keys(folder, None)
    return load_keys(folder)


class HostileServer:
    """Serves ``bundles`` under /bundles/ except for paths with other answers."""

    def __init__(self, bundles: Path) -> None:
        self.bundles = bundles
        self.tricks: dict[str, Trick] = {}  # by path below /bundles/
        self.everywhere: Trick | None = None
        self.asked: list[str] = []
        self.sent_bytes = 0
        self._http = _Listener(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(
            target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def answer(self, path: str, body: bytes) -> None:
        """Answer with these bytes for the path."""
        self.tricks[path] = lambda request: send(request, body)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = self.path.removeprefix("/bundles/")
                server.asked.append(path)
                if trick := server.tricks.get(path, server.everywhere):
                    trick(self)
                    return
                file = server.bundles / path
                if file.is_file():
                    send(self, file.read_bytes())
                else:
                    self.send_error(404)

            def log_message(self, format: str, *args: object) -> None:
                """Not on the tests' standard error."""

        return Handler


class _Listener(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up on an endless answer does as it should."""


def send(request: BaseHTTPRequestHandler, body: bytes) -> None:
    """A plain 200."""
    request.send_response(200)
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    request.wfile.write(body)


def endless(request: BaseHTTPRequestHandler, piece: bytes = b" " * 65536) -> None:
    """A 200 that never ends."""
    request.send_response(200)
    request.end_headers()
    while True:
        request.wfile.write(piece)


@contextmanager
def served(project: Project) -> Iterator[HostileServer]:
    """The project's bundles on a socket."""
    server = HostileServer(project.folder / "bundles")
    try:
        yield server
    finally:
        server.close()


@contextmanager
def host(folder: Path, url: str, **limits: float) -> Iterator[BundleStore]:
    """A volunteer's bundle store that has attached; it contacts the server at every fetch."""
    with httpx.Client(trust_env=False) as client:
        store = BundleStore(
            folder, url, client, fetcher=HttpFetcher(client, **limits), refresh_seconds=0
        )
        store.pin_root(None)
        yield store


def at(moment: datetime) -> Clock:
    """A clock with a constant time."""
    return lambda: moment
