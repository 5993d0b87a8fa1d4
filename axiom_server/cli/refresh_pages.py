"""The command `axiom-server refresh-pages`.

Imports are inside the functions, so that ``axiom-server --help`` answers at once.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import typer

from axiom_server.cli.shared import project_of

if TYPE_CHECKING:
    from axiom_server.project_folder import ProjectFolder

REFRESH_LOCK = 0x7061676573  # "pages": one run at a time
NICENESS = 15  # it must not slow the server that it draws for


def refresh_pages(context: typer.Context) -> None:
    """Draw figures and studies that are out of date, and write the daily statistics files.

    A serving process runs this by itself, soon after each review.
    """
    if hasattr(os, "nice"):
        os.nice(NICENESS)
    folder = project_of(context)
    with folder.database() as conninfo:
        done = asyncio.run(_refresh(folder, conninfo))
    print("another run is at work" if done is None else f"{done} experiments and studies drawn")


async def _refresh(folder: ProjectFolder, conninfo: str) -> int | None:
    from axiom_server.pages.drawings import draw_all
    from axiom_server.store.database import connect, row
    from axiom_server.transfer.export_statistics import export_statistics, is_current

    stats = folder.path / "stats"
    async with connect(conninfo, autocommit=True) as connection:
        if not (await row(connection, "SELECT pg_try_advisory_lock(%s)", (REFRESH_LOCK,)))[0]:
            return None
        if not is_current(stats):
            await export_statistics(connection, stats)
        return await draw_all(connection, print)
