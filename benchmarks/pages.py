"""How long pages take with 100,000 hosts and 5,000,000 credited results, and what they cost syncs.

    python -m benchmarks.pages [--folder DIR] [--hosts N] [--results N] [--rounds N] [--only PATH]

The data are made by benchmarks.pages_data, in a temporary folder or in DIR, which is kept and used
again. Page by page, in the application without a network: milliseconds from request to answer
(median and 99th percentile), and of processor time in the server and in PostgreSQL. A page is asked
for when the place of the one before is free again (see web/page_limits.py). Then a real
serving process answers hosts' syncs while, in every other window of time, readers load pages: the
ratio of the syncs' times with pages to those without is of windows that lie side by side.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import psutil
from starlette.types import ASGIApp, Message

from axiom_protocol.messages import Capacity, SyncRequest
from axiom_server.config import Config, ServeConfig
from axiom_server.decide.rates import Limits
from axiom_server.maintenance.rounds import Maintenance, run_round
from axiom_server.project_folder import ProjectFolder
from axiom_server.store.database import make_pool
from axiom_server.sync.batcher import SyncBatcher
from axiom_server.web.api import Api, application
from axiom_server.web.metrics import Metrics
from axiom_server.web.page_limits import REST, REST_SECONDS_MAX
from benchmarks import load
from benchmarks.common import report
from benchmarks.pages_data import COOKIES, SYNCING, prepare

WINDOWS = 8  # of syncs alone, and as many with readers beside them
WINDOW_SECONDS = 3.0
SYNC_PAUSE_SECONDS = 0.25  # of each host between two syncs: four a second, an agent's most
READERS = 4  # at once, each without a pause
ROUND_SECONDS = 3600.0  # no maintenance round falls among the pages that are timed
LIMIT_MS = 50.0

PATHS = (
    "/", "/experiments", "/experiments/short_walk", "/leaders", "/leaders?order=recent",
    "/leaders?order=day", "/leaders?page=100", "/leaders/short_walk", "/users/1007", "/hosts/1007",
    "/teams", "/teams/7", "/sessions", "/sessions/1001", "/status",
    "/status.json", "/status.xml", "/feeds/findings.atom", "/feeds/sessions.atom",
    "/charts/credit.light.svg", "/charts/users/1007.light.svg", "/charts/hosts/1007.light.svg",
    "/users/1007/badge.svg", "/users/1007/certificate.svg",
    "/experiments/short_walk/1.0.0/diffusive.light.svg",
    "/experiments/short_walk/1.0.0/diffusive.json", "/studies", "/leaders/short_walk/teams",
    "/teams?order=recent", "/teams?order=day", "/sessions/1001?page=50",
    "/charts/teams/7.light.svg", "/charts/experiments/short_walk.light.svg",
)  # fmt: skip


PRIVATE = ("/account", "/account/machines", "/account/hosts/1007", "/staff")


def main() -> None:
    """Make the data where there are none, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, help="keep the data here, to be used again")
    parser.add_argument("--hosts", type=int, default=100_000)
    parser.add_argument("--results", type=int, default=5_000_000)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--only", help="measure this page alone, and no syncs")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="axiom-bench-") as temporary:
        folder = given.folder or Path(temporary) / "p"
        Path(temporary).chmod(0o755)
        project = prepare(folder, given.hosts, given.results)
        with project.database() as conninfo:
            paths = [given.only] if given.only else (*PATHS, *PRIVATE)
            pages = asyncio.run(each_page(conninfo, project, paths, given.rounds))
            beside = {} if given.only else syncs_beside_pages(project)
    slowest = max(p["median_ms"] for p in pages.values())
    figures: dict[str, Any] = {
        "pages": len(pages), "slowest_median_ms": slowest,
        "slowest_p99_ms": max(p["p99_ms"] for p in pages.values()),
        "over_50_ms": sum(p["median_ms"] > LIMIT_MS for p in pages.values()),
        **beside, "load_average": os.getloadavg()[0],
    }  # fmt: skip
    report("pages", figures, {"limit_ms": LIMIT_MS})


async def each_page(
    conninfo: str, project: ProjectFolder, paths: Sequence[str], rounds: int
) -> dict[str, dict[str, float]]:
    """Measure every page in this process."""
    free = Limits(host_burst=0, address_burst=0)
    rare = ServeConfig(round_seconds=ROUND_SECONDS)
    config, pool = Config(limits=free, serve=rare), make_pool(conninfo)
    batcher = SyncBatcher(pool=pool, config=config)
    api = Api(config=config, bundles=project.bundles.folder, pool=pool, batcher=batcher,
              metrics=Metrics())  # fmt: skip
    app = application(api, Maintenance(pool=pool, config=config, bundles=project.bundles))
    postgres = database_process(project)
    async with app.router.lifespan_context(app):
        for name in ("first", "second"):
            began = time.perf_counter()
            async with pool.connection() as connection:
                await run_round(connection, config)
            print(f"{name} maintenance round: {1000 * (time.perf_counter() - began):.0f} ms")
        print(f"{'':52}{'median':>8}{'p99':>9}{'server':>9}{'database':>9}   ms")
        found = {}
        for path in paths:
            found[path] = await measured(app, path, rounds, postgres)
            print(f"{path:52}" + "".join(f"{value:9.2f}" for value in found[path].values()))
    return found


async def measured(
    app: ASGIApp, path: str, rounds: int, postgres: psutil.Process
) -> dict[str, float]:
    """Milliseconds of a page: median, 99th percentile, processor time here and in PostgreSQL."""
    await get(app, path)
    seconds: list[float] = []
    cpu, database = time.process_time(), cpu_seconds(postgres)
    for _ in range(rounds):
        began = time.perf_counter()
        await get(app, path)
        seconds.append(time.perf_counter() - began)
        await asyncio.sleep(min((REST + 1) * seconds[-1], 2 * REST_SECONDS_MAX))
    cpu, database = time.process_time() - cpu, cpu_seconds(postgres) - database
    return {
        **median_and_p99(seconds),
        "server_cpu_ms": 1000 * cpu / rounds, "database_cpu_ms": 1000 * database / rounds,
    }  # fmt: skip


async def get(app: ASGIApp, path: str) -> None:
    """Ask the application for a page, as a browser that takes gzip. Raises RuntimeError."""
    location, _, query = path.partition("?")
    scope = {
        "type": "http", "method": "GET", "path": location, "raw_path": location.encode(),
        "query_string": query.encode(), "http_version": "1.1", "scheme": "http", "root_path": "",
        "headers": [(b"host", b"here"), (b"accept-encoding", b"gzip"), (b"cookie", COOKIES)],
        "server": ("here", 80), "client": ("127.0.0.1", 1), "asgi": {"version": "3.0"},
    }  # fmt: skip
    status = 0

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        nonlocal status
        status = message.get("status", status)

    await app(scope, receive, send)
    if status != 200:
        raise RuntimeError(f"{path}: {status}")


def database_process(project: ProjectFolder) -> psutil.Process:
    """The postmaster of the project's embedded PostgreSQL."""
    return psutil.Process(int((project.embedded().data / "postmaster.pid").read_text().split()[0]))


def cpu_seconds(process: psutil.Process) -> float:
    """Processor time of a process and of its children, those that have ended too."""
    own = process.cpu_times()
    total = own.user + own.system + own.children_user + own.children_system
    for child in process.children():
        try:
            times = child.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return float(total)


def median_and_p99(seconds: Sequence[float]) -> dict[str, float]:
    """In milliseconds."""
    ordered = sorted(seconds)
    p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    return {"median_ms": 1000 * statistics.median(ordered), "p99_ms": 1000 * p99}


def syncs_beside_pages(project: ProjectFolder) -> dict[str, float]:
    """Syncs' times at a serving process, with readers in every other window."""
    _remove_limits(project.path / "project.toml")
    with load.serving(project.path) as port:
        alone, beside, pages = asyncio.run(_windows(port))
    found = {
        **{f"sync_alone_{k}": v for k, v in median_and_p99(alone).items()},
        **{f"sync_beside_pages_{k}": v for k, v in median_and_p99(beside).items()},
    }
    found["median_ratio"] = found["sync_beside_pages_median_ms"] / found["sync_alone_median_ms"]
    found["p99_ratio"] = found["sync_beside_pages_p99_ms"] / found["sync_alone_p99_ms"]
    found["pages_per_second"] = pages / (WINDOWS * WINDOW_SECONDS)
    found["syncs_per_second"] = len(beside) / (WINDOWS * WINDOW_SECONDS)
    return found


def _remove_limits(config: Path) -> None:
    text, opened = config.read_text(), "[limits]\nhost_burst = 0\naddress_burst = 0\n"
    if opened not in text:
        config.write_text(text.replace("[limits]", f"{opened}#", 1))


async def _windows(port: int) -> tuple[list[float], list[float], int]:
    """Seconds of syncs alone and beside readers, and how many pages were read."""
    alone: list[float] = []
    beside: list[float] = []
    pages = 0
    hosts = [load.Connection(port) for _ in range(SYNCING)]
    await _syncs(hosts, WINDOW_SECONDS)  # not counted: connections and tokens are new
    for _ in range(WINDOWS):
        alone += await _syncs(hosts, WINDOW_SECONDS)
        readers = [asyncio.create_task(_read(port, i)) for i in range(READERS)]
        beside += await _syncs(hosts, WINDOW_SECONDS)
        for reader in readers:
            reader.cancel()
        ended = await asyncio.gather(*readers, return_exceptions=True)
        pages += sum(e.args[0] for e in ended if isinstance(e, _Stopped))
    return alone, beside, pages


class _Stopped(Exception):
    """A reader was told to stop; how many pages it had read."""


async def _read(port: int, first: int) -> None:
    """Load page after page. Raises _Stopped when it is cancelled."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    count = 0
    try:
        while True:
            path = PATHS[(first * 7 + count) % len(PATHS)]
            writer.write(
                f"GET {path} HTTP/1.1\r\nHost: bench\r\nAccept-Encoding: gzip\r\n\r\n".encode()
            )
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            await reader.readexactly(int(head.split(b"content-length:", 1)[1].split(b"\r\n")[0]))
            count += 1
    except asyncio.CancelledError:
        raise _Stopped(count) from None
    finally:
        writer.close()


async def _syncs(hosts: Sequence[load.Connection], seconds: float) -> list[float]:
    """Syncs of all hosts for so long; the seconds of each."""
    until = time.perf_counter() + seconds
    found: list[float] = []

    async def one(number: int, connection: load.Connection) -> None:
        await asyncio.sleep(SYNC_PAUSE_SECONDS * number / len(hosts))
        while time.perf_counter() < until:
            began = time.perf_counter()
            body = _sync_body(f"bench-{number}-{began:.6f}")
            status, answer = await connection.post("/api/v1/sync", body, f"token{number}")
            if status != 200:
                raise RuntimeError(f"sync: {status} {answer[:200]!r}")
            found.append(time.perf_counter() - began)
            await asyncio.sleep(SYNC_PAUSE_SECONDS)

    await asyncio.gather(*(one(i, connection) for i, connection in enumerate(hosts)))
    return found


def _sync_body(request_id: str) -> bytes:
    """A sync of a host that is full: it asks for nothing and reports nothing."""
    return msgspec.json.encode(
        SyncRequest(
            request_id=request_id, in_hand=[], reports=[],
            capacity=Capacity(
                cpu_slots=8, gpu_slots=0, memory_free_bytes=1 << 34, cpu_slots_free=0,
                gpu_slots_free=0, disk_free_bytes=1 << 34, buffer_seconds=0.0,
            ),
        )
    )  # fmt: skip


if __name__ == "__main__":
    main()
