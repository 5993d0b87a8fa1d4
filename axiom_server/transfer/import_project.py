"""`axiom-server import FILE`: import another project's users, hosts and results."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from axiom_protocol.given_file import FileProblem, decode, read_bytes
from axiom_protocol.text import one_line
from axiom_server.decide import names
from axiom_server.errors import FileUnreadable
from axiom_server.store import imports, teams
from axiom_server.store.database import Connection
from axiom_server.store.imports import ImportedHostRow, ImportedResultRow

FILE_BYTES_MAX = 1 << 30  # a million results are about 130 MB

Id = Annotated[int, Meta(ge=1, le=2**53)]
Name = Annotated[str, Meta(min_length=1, max_length=200)]
Count = Annotated[int, Meta(ge=0, le=1_000_000)]


class ImportedResult(Struct, frozen=True):
    """A result of the other project, with the elapsed seconds that it is credited for."""

    result_id: Id
    user: Name
    host_id: Id
    experiment: Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
    elapsed_seconds: Annotated[float, Meta(ge=0, le=10 * 366 * 86400)]


class ImportedHost(Struct, frozen=True):
    """A host of the other project with idle cores and GPUs."""

    host_id: Id
    name: Name
    cpu_cores: Count
    gpus: Count = 0


class History(Struct, frozen=True):
    """The content of the file. Other keys in it are ignored."""

    results: list[ImportedResult]
    idle_hosts: list[ImportedHost] = []


@dataclass(frozen=True, kw_only=True)
class Imported:
    """What an import added."""

    results: int
    already_known: int
    users: int
    hosts: int
    idle_hosts: int


def read_history(path: Path) -> tuple[History, bytes]:
    """Read and check the file; returns its content and sha256. Raises FileUnreadable."""
    try:
        raw = read_bytes(path, FILE_BYTES_MAX)
        history = msgspec.json.decode(decode(path, raw), type=History)
    except FileProblem as problem:
        raise FileUnreadable(str(problem)) from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise FileUnreadable(
            f"{path} is not a project's history: {error}; it needs a list 'results' of "
            "result_id, user, host_id, experiment, elapsed_seconds"
        ) from None
    counts = Counter(r.result_id for r in history.results)
    if twice := [result_id for result_id, n in counts.items() if n > 1]:
        raise FileUnreadable(f"{path}: result_id {min(twice)} occurs twice; nothing was imported")
    owners: dict[int, str] = {}
    for result in history.results:
        if owners.setdefault(result.host_id, result.user) != result.user:
            raise FileUnreadable(
                f"{path}: host_id {result.host_id} has two users; nothing was imported"
            )
    return history, hashlib.sha256(raw).digest()


async def import_history(
    connection: Connection, history: History, digest: bytes, source: str
) -> Imported:
    """Import a history, in the caller's transaction. Importing a file again changes nothing."""
    owners = {r.host_id: one_line(r.user) for r in history.results}
    if not await imports.is_new_file(connection, digest):
        return Imported(
            results=0, already_known=len(history.results), users=0, hosts=0, idle_hosts=0
        )
    idle = [
        ImportedHostRow(
            host_id=h.host_id, name=one_line(h.name), cpu_cores=h.cpu_cores, gpus=h.gpus
        )
        for h in history.idle_hosts
    ]
    hosts = await imports.add_hosts(connection, source, owners, idle)
    results = [
        ImportedResultRow(r.result_id, one_line(r.user), r.host_id, r.experiment, r.elapsed_seconds)
        for r in history.results
    ]
    new = await imports.add_results(connection, source, results, hosts)
    for user in sorted(set(owners.values())):
        if team := names.team_of(user):
            await teams.join_team(connection, user, team)
    return Imported(
        results=new,
        already_known=len(results) - new,
        users=len(set(owners.values())),
        hosts=len(hosts),
        idle_hosts=len(idle),
    )
