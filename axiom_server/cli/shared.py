"""What all commands share: finding the project, a database transaction, and printing."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from axiom_protocol.text import one_line
from axiom_server.errors import TransactionConflict, Usage

if TYPE_CHECKING:
    from axiom_server.project_folder import ProjectFolder
    from axiom_server.store.database import Connection

T = TypeVar("T")

#: Objects that Python creates before it looks for cycles among them; its default is 700. Each time
#: it looks at much that lasts: with 6,000 waiting requests, that took more than half of a serving
#: process's time, and with 200,000 results a quarter of a review's.
OBJECTS_BETWEEN_COLLECTIONS = 50_000

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def collect_garbage_less_often() -> None:
    """Set how often this process looks for cycles of objects that nothing else refers to."""
    gc.set_threshold(OBJECTS_BETWEEN_COLLECTIONS)


def project_of(context: typer.Context) -> ProjectFolder:
    """The project of --dir, AXIOM_SERVER_DIR or the current folder. Raises NotInitialised."""
    from axiom_server.project_folder import find_project

    return find_project(context.find_root().obj)


def title_of(given: str) -> str:
    """A name from the command line as pages and logs can show it. Raises Usage."""
    from axiom_server.decide.names import NAME_CHARACTERS_MAX

    if not given or given != one_line(given) or len(given) > NAME_CHARACTERS_MAX:
        raise Usage(
            f"a name is one line of 1 to {NAME_CHARACTERS_MAX} characters that can be seen, "
            "without spaces around it"
        )
    return given


def name_of(given: str) -> str:
    """Somebody's name from the command line, as those of the wire are. Raises Usage."""
    from axiom_server.decide.names import refusal

    if why := refusal(title_of(given)):
        raise Usage(f"{given!r} cannot be a name: {why}")
    return given


def run_transaction(
    folder: ProjectFolder, work: Callable[[Connection], Awaitable[T]], *, attempts: int = 1
) -> T:
    """Run ``work`` in one transaction on the project's database, and return its value.

    With more than one of ``attempts``, it is repeated after a conflict with other transactions:
    ``work`` must change nothing but the database.

    Raises DatabaseUnreachable, TransactionConflict, DiskFull, and what ``work`` raises.
    """
    from axiom_server.store.database import connect

    async def run(conninfo: str) -> T:
        for attempt in range(1, attempts + 1):
            try:
                async with connect(conninfo) as connection:
                    return await work(connection)
            except TransactionConflict:
                if attempt == attempts:
                    raise
        raise AssertionError("not reached")

    with folder.database() as conninfo:
        return asyncio.run(run(conninfo))


def print_json(value: Any) -> None:
    """Print indented JSON."""
    import msgspec

    print(msgspec.json.format(msgspec.json.encode(value), indent=1).decode())


def print_table(headings: Sequence[str], lines: Iterable[Sequence[Any]]) -> None:
    """Print aligned columns under their headings; print nothing when there are no lines."""
    texts = [[str(cell) for cell in line] for line in lines]
    if not texts:
        return
    widths = [max(len(line[i]) for line in [list(headings), *texts]) for i in range(len(headings))]
    for line in [list(headings), *texts]:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        print("  ".join(cells).rstrip())
