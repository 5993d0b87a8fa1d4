"""A minimal scheduler, the baseline for the cost of authentication, policy and result checks.

    python -m benchmarks.reference.bare_server CONNINFO PORT QUEUED

It uses Starlette and psycopg's asynchronous pool: one statement for the reports of a sync and one
SKIP LOCKED statement for its grants, in one durable transaction. It checks nothing.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import psycopg
import uvicorn
from psycopg_pool import AsyncConnectionPool
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from axiom_server.cli.shared import collect_garbage_less_often

CONNECTIONS = 8

SCHEMA = """
CREATE TABLE bare_tasks (
    task_id  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    seed     bigint NOT NULL,
    state    text NOT NULL DEFAULT 'queued',
    elapsed  double precision,
    result   jsonb
);
CREATE INDEX bare_queued ON bare_tasks (task_id) WHERE state = 'queued';
"""

REPORTS = """
UPDATE bare_tasks t SET state = 'reported', elapsed = r.elapsed_seconds, result = r.result
FROM jsonb_to_recordset(%s) AS r(task_id bigint, elapsed_seconds double precision, result jsonb)
WHERE t.task_id = r.task_id AND t.state = 'leased'"""

GRANTS = """
UPDATE bare_tasks SET state = 'leased' WHERE task_id IN (
    SELECT task_id FROM bare_tasks WHERE state = 'queued' ORDER BY task_id
    LIMIT %s FOR UPDATE SKIP LOCKED)
RETURNING task_id, seed"""


class Capacity(msgspec.Struct):
    """The part of a host's capacity that is used."""

    cpu_slots_free: int


class Sync(msgspec.Struct):
    """The part of a sync request that is used."""

    capacity: Capacity
    reports: list[dict[str, Any]]


def application(conninfo: str) -> Starlette:
    """The application, with one route."""
    pool = AsyncConnectionPool(conninfo, min_size=CONNECTIONS, max_size=CONNECTIONS, open=False)
    decode = msgspec.json.Decoder(Sync).decode

    async def sync(request: Request) -> Response:
        received = decode(await request.body())
        async with pool.connection() as connection:
            if received.reports:
                encoded = msgspec.json.encode(received.reports).decode()
                await connection.execute(REPORTS, (encoded,))
            cursor = await connection.execute(GRANTS, (received.capacity.cpu_slots_free,))
            rows = await cursor.fetchall()
        answer = {
            "grants": [{"task_id": task_id, "seed": seed} for task_id, seed in rows],
            "acknowledged": [{"task_id": report["task_id"]} for report in received.reports],
        }
        return Response(msgspec.json.encode(answer), media_type="application/json")

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with pool:
            yield

    return Starlette(routes=[Route("/api/v1/sync", sync, methods=["POST"])], lifespan=lifespan)


def main(conninfo: str, port: int, queued: int) -> None:
    """Create the table, fill it, and serve."""
    with psycopg.connect(conninfo) as db:
        db.execute(SCHEMA)
        db.execute(
            "INSERT INTO bare_tasks (seed) SELECT n FROM generate_series(1, %s) n", (queued,)
        )
    with psycopg.connect(conninfo, autocommit=True) as db:
        db.execute("VACUUM ANALYZE bare_tasks")
    collect_garbage_less_often()  # as the server does
    uvicorn.run(application(conninfo), host="127.0.0.1", port=port, log_level="warning")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
