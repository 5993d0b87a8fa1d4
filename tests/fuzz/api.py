"""Fuzz the API over the network: slightly wrong requests to a real ``axiom-server serve``.

Required for any request: a status below 500, a Problem if it is refused, no traceback in the
server's log, and no growing memory.
"""

from __future__ import annotations

import gzip
import http.client
import json
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

import psutil
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from msgspec import Struct
from msgspec import json as msgjson

from tests.fuzz.structured import FACTS, SYNCS, encoded, mostly, table, variants
from tests.support.programs import FIXTURES, Server
from tests.support.programs import server as new_project

INPUTS_EACH = 50  # of each request that hypothesis makes: the others are it, broken
HOSTS = 3
TASKS = 200  # that the hosts may be given, so that some reports are of real ones
WARM_SHARE = 0.3  # of the inputs: until then caches, pools and the allocator fill
GROWTH_BYTES_MAX = 48 * 1024 * 1024  # of the server from there to 100,000 inputs
NO_LIMITS = """
[limits]
host_burst = 0
host_bytes_burst = 0
address_burst = 0
enrolments_burst = 0
accounts_burst = 0
all_enrolments_burst = 0
all_accounts_burst = 0
"""
CORPUS = Path(__file__).parent / "corpus" / "api"


class FuzzRequest(Struct, frozen=True):
    """A request. ``host``: number of the host whose token it has, if any."""

    method: str
    path: str
    body: bytes = b""
    headers: dict[str, str] = {}
    host: int = HOSTS


HEADERS: SearchStrategy[dict[str, str]] = st.dictionaries(
    st.sampled_from(["Content-Encoding", "Accept-Encoding", "Range", "If-Range", "Authorization",
                     "X-Forwarded-For", "Content-Type", "Accept", "If-None-Match"]),
    st.sampled_from(["gzip", "br", "identity", "bytes=0-", "bytes=9-1", "bytes=-5", "bytes=a",
                     "Bearer x", "Bearer", "Basic eDp5", "::1", "1.2.3.4, 5.6.7.8", "*", "",
                     "application/json", "\xff\xfe", "x" * 5000]),
    max_size=2,
)  # fmt: skip
SEGMENTS = st.one_of(
    st.sampled_from(["metadata", "targets", "timestamp.json", "1.root.json", "..", ".lock", "", "1",
                     "api", "v1", "sync", "hosts", "a" * 300, "9" * 30, "9" * 5000, "%2e%2e"]),
    st.text(max_size=6),
)  # fmt: skip
PATHS = st.one_of(
    st.sampled_from(["/", "/metrics", "/healthz", "/readyz", "/api/v1/project", "/api/v1/sync",
                     "/api/v1/hosts", "/bundles/metadata/timestamp.json"]),
    st.lists(SEGMENTS, max_size=4).map(lambda s: "/" + "/".join(s)),
    SEGMENTS.map(lambda s: f"/bundles/metadata/{s}"),
    SEGMENTS.map(lambda s: f"/bundles/targets/{s}"),
    SEGMENTS.map(lambda s: f"/sessions/{s}"),
    SEGMENTS.map(lambda s: f"/sessions/1/{s}"),
    SEGMENTS.map(lambda s: f"/studies/{s}"),
    SEGMENTS.map(lambda s: f"/leaders/{s}/teams"),
)  # fmt: skip
ENROLS = table(
    {
        "host": table(FACTS, ["name", "os", "gpus", "environments"]),
        "user": st.text(max_size=9),
        "account_key": st.sampled_from(["", "k"]),
    },
    ["host", "user", "account_key", "protocol_version"],
)
METHODS = st.sampled_from(["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"])


def requests() -> SearchStrategy[FuzzRequest]:
    """Half of them are syncs; the others are joins, pages, bundles and unknown paths."""
    post = mostly(st.just("POST"), METHODS)
    sync = st.builds(
        FuzzRequest, post, st.just("/api/v1/sync"), encoded(SYNCS), HEADERS | st.just({}),
        st.integers(0, HOSTS),
    )  # fmt: skip
    join = st.builds(
        FuzzRequest, post, st.just("/api/v1/hosts"), encoded(ENROLS), HEADERS | st.just({})
    )
    page = st.builds(
        FuzzRequest, mostly(st.just("GET"), METHODS), PATHS, st.binary(max_size=4), HEADERS
    )
    return st.one_of(sync, sync, join, page)


def broken(asked: FuzzRequest, seed: int, count: int) -> Iterator[FuzzRequest]:
    """The request, and copies whose body or path is broken in a few places."""
    rng = random.Random(seed)
    for body in variants(asked.body, seed, count):
        path = asked.path
        if asked.method == "GET" and rng.random() < 0.5:
            *_, raw = variants(path.encode("utf-8", "replace"), rng.getrandbits(32), 2)
            path = "/" + raw.decode("latin-1").lstrip("/")
        packed = asked.headers.get("Content-Encoding") == "gzip" and rng.random() < 0.7
        yield FuzzRequest(
            asked.method, path, gzip.compress(body, 1) if packed else body, asked.headers,
            asked.host,
        )  # fmt: skip


class Served:
    """The fuzzed project, and a connection to it."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._line = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        facts = {"name": "h", "os": "Linux", "architecture": "x86_64", "cpu_cores": 4,
                 "memory_bytes": 1 << 34, "disk_free_bytes": 1 << 34}  # fmt: skip
        joining = FuzzRequest("POST", "/api/v1/hosts", json.dumps({"host": facts}).encode())
        self._tokens = [json.loads(self.ask(joining)[2])["token"] for _ in range(HOSTS)]

    def ask(self, asked: FuzzRequest) -> tuple[int, str, bytes]:
        """Status, content type and body of the answer."""
        headers = dict(asked.headers)
        if asked.host < HOSTS:
            headers["Authorization"] = f"Bearer {self._tokens[asked.host]}"
        path = quote(asked.path, safe="/%", errors="replace")
        try:
            self._line.request(asked.method, path, asked.body or None, headers)
            answer = self._line.getresponse()
            return answer.status, answer.headers.get("Content-Type", ""), answer.read()
        except (ConnectionError, http.client.RemoteDisconnected):
            self._line.close()  # after a head or a body that is too long; the next one connects
            return 400, "", b""

    def close(self) -> None:
        """Hang up."""
        self._line.close()

    def check(self, asked: FuzzRequest) -> None:
        """Raises AssertionError when a promise is broken."""
        status, kind, body = self.ask(asked)
        assert status < 500, f"{status} for {asked.method} {asked.path[:80]}: {body[:300]!r}"
        if status >= 400 and "problem+json" in kind and asked.method != "HEAD":
            assert json.loads(body)["status"] == status

    def memory_bytes(self) -> int:
        """Of the serving process, without what it shares with PostgreSQL."""
        assert self.server.process is not None
        return int(psutil.Process(self.server.process.pid).memory_info().rss)

    def tracebacks(self) -> str:
        """The tracebacks in the server's log."""
        log = (self.server.folder.parent / "axiom-server.log").read_text()
        return log[log.find("Traceback") :][:3000] if "Traceback" in log else ""


@contextmanager
def served() -> Iterator[Served]:
    """A project without rates, with an experiment and work for its hosts."""
    with tempfile.TemporaryDirectory(prefix="axiom-fuzz-") as folder:
        server = new_project(Path(folder))
        (server.folder / "project.toml").write_text(NO_LIMITS)
        source = str(FIXTURES / "experiments" / "short_walk.py")
        server.run("publish", source, "--skip", "dry-run")
        server.run("deploy", "short_walk", "--count", str(TASKS))
        server.serve()
        try:
            with closing(Served(server)) as project:
                yield project
        finally:
            server.stop()


def replay(project: Served) -> int:
    """Make the kept requests; how many there were. Raises what one of them shows."""
    kept = sorted(CORPUS.iterdir())
    for path in kept:
        project.check(msgjson.decode(path.read_bytes(), type=FuzzRequest))
    return len(kept)


def run(project: Served, inputs: int, folder: Path, tell: Callable[[str], None] = print) -> int:
    """So many requests; how many findings. The smallest request of a finding is kept."""
    begun, count, warm, last = time.monotonic(), 0, 0, FuzzRequest("GET", "/")

    @settings(
        max_examples=max(1, inputs // INPUTS_EACH), database=None, deadline=None,
        phases=[Phase.generate], suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(requests(), st.integers(0, 2**32))
    def fire(asked: FuzzRequest, seed: int) -> None:
        nonlocal count, warm, last
        for last in broken(asked, seed, INPUTS_EACH):
            count += 1
            project.check(last)
        if not warm and count > WARM_SHARE * inputs:
            warm = project.memory_bytes()

    try:
        fire()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the finding
        path = folder / "api.json"
        path.write_bytes(msgjson.encode(last))
        tell(f"api: FOUND {type(error).__name__}: {str(error)[:500]}; request in {path}")
        return 1
    if shown := project.tracebacks():
        tell(f"api: FOUND in the server's log:\n{shown}")
        return 1
    grown = max(0, project.memory_bytes() - warm)
    tell(
        f"api: {count:,} requests in {time.monotonic() - begun:.0f} s, "
        f"the server's memory grew by {grown / 1e6:.1f} MB after the first {WARM_SHARE:.0%}"
    )
    if grown > GROWTH_BYTES_MAX:
        tell("api: FOUND growth of memory")
        return 1
    return 0
