"""What the staff's commands share: the project they speak of, its database, and how they print."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from axiom_server.errors import DiskFull

if TYPE_CHECKING:
    from axiom_server.project_folder import ProjectFolder
    from axiom_server.store.database import Connection

T = TypeVar("T")

Json = Annotated[bool, typer.Option("--json", help="For machines.")]


def project_of(context: typer.Context) -> ProjectFolder:
    """That of --dir, of AXIOM_SERVER_DIR, or here. Raises NoProject."""
    from axiom_server.project_folder import find_project

    return find_project(context.find_root().obj)


def run_transaction(folder: ProjectFolder, work: Callable[[Connection], Awaitable[T]]) -> T:
    """Do ``work`` in one transaction on the project's database."""
    import psycopg

    from axiom_server.store.database import connect, unreachable

    async def inside(conninfo: str) -> T:
        async with connect(conninfo) as connection:
            return await work(connection)

    with folder.database() as conninfo:
        try:
            return asyncio.run(inside(conninfo))
        except psycopg.errors.DiskFull:
            raise DiskFull(f"no space left for the database in {folder.path}") from None
        except psycopg.OperationalError as error:
            raise unreachable(error) from None


def print_json(value: Any) -> None:
    """For machines, and still to be read."""
    import msgspec

    print(msgspec.json.format(msgspec.json.encode(value), indent=1).decode())


def print_table(heads: Sequence[str], lines: Iterable[Sequence[Any]]) -> None:
    """Columns under their heads, as wide as they must be; nothing where there is no line."""
    texts = [[str(cell) for cell in line] for line in lines]
    if not texts:
        return
    widths = [max(len(line[i]) for line in [list(heads), *texts]) for i in range(len(heads))]
    for line in [list(heads), *texts]:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        print("  ".join(cells).rstrip())
