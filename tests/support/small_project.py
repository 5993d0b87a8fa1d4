"""A small project for tests of the agent: real keys, bundles and HTTP, with a queue in memory."""

from __future__ import annotations

import gzip
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from axiom_protocol.messages import (
    Acknowledgement,
    Credit,
    EnrolAnswer,
    EnrolRequest,
    Grant,
    Problem,
    ProjectInfo,
    Report,
    SyncAnswer,
    SyncRequest,
)
from axiom_server.trust.keys import init_keys, load_keys
from axiom_server.trust.repository import Published, Repository

TOKEN = "a-token-of-64-characters-for-tests"
WALK = Path(__file__).parents[1] / "fixtures" / "experiments" / "short_walk.py"


class SmallProject:
    """One host's project. Change the public fields to make it misbehave."""

    def __init__(self, folder: Path) -> None:
        init_keys(folder / "keys", None)
        self._keys = load_keys(folder / "keys")
        self._repository = Repository(folder / "bundles")
        self._repository.create(self._keys)
        self._bundles = folder / "bundles"
        self._lock = threading.Lock()
        self._answers: dict[str, SyncAnswer] = {}
        self._next_id = 1
        self.queue: list[Grant] = []
        self.leased: dict[int, Grant] = {}
        self.reports: dict[int, list[Report]] = {}  # every arrival of a report, by task
        self.requests: list[SyncRequest] = []
        self.cancel: list[int] = []
        self.next_sync_seconds = 60.0
        self.lose_answers = 0  # so many requests are taken in and then not answered
        self.refuse: tuple[int, str] | None = None  # status and title of every answer

    def publish(self, source: bytes | None = None) -> Published:
        """Sign and offer an experiment."""
        return self._repository.publish(source or WALK.read_bytes(), self._keys)

    def deploy(self, bundle: Published, count: int, **parameters: Any) -> list[int]:
        """Queue tasks; returns their ids."""
        made = []
        with self._lock:
            for _ in range(count):
                made.append(self._next_id)
                self.queue.append(
                    Grant(
                        task_id=self._next_id,
                        experiment=bundle.name,
                        version=bundle.version,
                        sha256=bundle.sha256,
                        parameters=parameters,
                        seed=self._next_id,
                        budget_seconds=1.0,
                        lease_seconds=3600.0,
                    )
                )
                self._next_id += 1
        return made

    def outcomes(self) -> dict[int, str]:
        """How each reported task ended."""
        return {task_id: reports[0].outcome for task_id, reports in sorted(self.reports.items())}

    # --- the three requests -----------------------------------------------------------------------

    def answer(self, method: str, path: str, headers: Any, body: bytes) -> tuple[int, Struct]:
        if self.refuse is not None:
            return self.refuse[0], Problem(title=self.refuse[1], status=self.refuse[0])
        if path == "/api/v1/project":
            return 200, ProjectInfo(name="Small project")
        if path == "/api/v1/hosts":
            asked = msgspec.json.decode(body, type=EnrolRequest)
            return 201, EnrolAnswer(host_id=7, token=TOKEN, user=asked.user or "nobody")
        if headers.get("Authorization") != f"Bearer {TOKEN}":
            return 401, Problem(title="This host is not known here", status=401)
        with self._lock:
            return 200, self._sync(msgspec.json.decode(body, type=SyncRequest))

    def _sync(self, asked: SyncRequest) -> SyncAnswer:
        self.requests.append(asked)
        for report in asked.reports:
            self.reports.setdefault(report.task_id, []).append(report)
            self.leased.pop(report.task_id, None)
        if asked.request_id not in self._answers:
            self._answers[asked.request_id] = self._new_answer(asked)
        return self._answers[asked.request_id]

    def _new_answer(self, asked: SyncRequest) -> SyncAnswer:
        capacity = asked.capacity
        ahead = capacity.cpu_slots if capacity.buffer_seconds else 0
        count = min(len(self.queue), capacity.cpu_slots_free + ahead)
        grants, self.queue = self.queue[:count], self.queue[count:]
        self.leased |= {grant.task_id: grant for grant in grants}
        cancelled, self.cancel = self.cancel, []
        return SyncAnswer(
            request_id=asked.request_id,
            grants=grants,
            acknowledged=[Acknowledgement(task_id=r.task_id) for r in asked.reports],
            cancelled=cancelled,
            next_sync_seconds=self.next_sync_seconds,
            no_work_reason="" if grants else "nothing is waiting",
            credit=Credit(host_total=2.0 * len(self.reports)),
        )

    def file(self, path: str) -> bytes | None:
        """A file of the bundles."""
        found = self._bundles / path.removeprefix("/bundles/")
        return found.read_bytes() if found.is_file() else None


@contextmanager
def served(project: SmallProject, port: int = 0) -> Iterator[str]:
    """Serve on loopback; yields the address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if self.path.startswith("/bundles/"):
                data = project.file(self.path)
                self._send(404 if data is None else 200, data or b"")
            else:
                self._api(b"")

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            packed = self.headers.get("Content-Encoding") == "gzip"
            self._api(gzip.decompress(body) if packed else body)

        def do_DELETE(self) -> None:
            self._send(204, b"")

        def _api(self, body: bytes) -> None:
            status, answer = project.answer(self.command, self.path, self.headers, body)
            if project.lose_answers and self.path.endswith("sync"):
                project.lose_answers -= 1
                self.close_connection = True
                return
            self._send(status, msgspec.json.encode(answer))

        def _send(self, status: int, data: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            """The test's output is the test's."""

    class Listener(ThreadingHTTPServer):
        daemon_threads = True
        allow_reuse_address = True

        def process_request(self, request: Any, client_address: Any) -> None:
            connections.append(request)
            super().process_request(request, client_address)

    connections: list[socket.socket] = []

    with Listener(("127.0.0.1", port), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{http.server_port}"
        finally:
            http.shutdown()
            thread.join()
            for connection in connections:  # a server that is gone answers on none of them
                with suppress(OSError):  # closed already
                    connection.shutdown(socket.SHUT_RDWR)
