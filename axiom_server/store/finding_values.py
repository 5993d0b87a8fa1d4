"""The values by which findings were last judged, one for each seed, with the verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from axiom_server.store.database import Connection, as_json, rows


class FindingValues(NamedTuple):
    """A finding's values, as lists of equal length; ``controls`` is empty without a control."""

    version_id: int
    finding: str
    judged_at: datetime
    verdict: dict[str, Any]
    seeds: list[int]
    hosts: list[int]
    numbers: list[float]
    fields: list[float]
    controls: list[float]


async def record(connection: Connection, values: FindingValues) -> None:
    """Replace the stored values of the finding; ``judged_at`` becomes the current time."""
    await connection.execute(
        """INSERT INTO finding_values (version_id, finding, verdict, seeds, hosts, numbers, fields,
                                       controls)
           VALUES (%s, %s, %s::jsonb, %s, %s, %s, %s, %s)
           ON CONFLICT (version_id, finding) DO UPDATE SET judged_at = now(),
               verdict = excluded.verdict, seeds = excluded.seeds, hosts = excluded.hosts,
               numbers = excluded.numbers, fields = excluded.fields,
               controls = excluded.controls""",
        (values.version_id, values.finding, as_json(values.verdict), *values[4:]),
    )


async def of_versions(connection: Connection, ids: Sequence[int]) -> list[FindingValues]:
    """The stored values of these versions' findings, by version and finding."""
    found = await rows(
        connection,
        """SELECT version_id, finding, judged_at, verdict, seeds, hosts, numbers, fields, controls
           FROM finding_values WHERE version_id = ANY(%s) ORDER BY version_id, finding""",
        (list(ids),),
    )
    return [FindingValues._make(r) for r in found]


async def judged_at(connection: Connection, version_id: int, finding: str) -> datetime | None:
    """When a finding was last judged."""
    found = await rows(
        connection,
        "SELECT judged_at FROM finding_values WHERE version_id = %s AND finding = %s",
        (version_id, finding),
    )
    return found[0][0] if found else None


async def verdicts(connection: Connection) -> dict[int, list[dict[str, Any]]]:
    """The stored verdicts by version, without the values."""
    found = await rows(
        connection,
        """SELECT version_id, verdict || jsonb_build_object('judged_at', judged_at)
           FROM finding_values ORDER BY version_id, finding""",
    )
    made: dict[int, list[dict[str, Any]]] = {}
    for version_id, verdict in found:
        made.setdefault(version_id, []).append(verdict)
    return made
