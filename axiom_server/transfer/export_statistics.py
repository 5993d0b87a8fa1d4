"""`axiom-server export statistics DIR`: the files that BOINC's statistics sites read.

The files are tables.xml, user.gz, host.gz and team.gz, as BOINC's db_dump writes them, all from one
snapshot of the database.
"""

from __future__ import annotations

import errno
import gzip
import os
import tempfile
import time
from pathlib import Path

from axiom_server.errors import DiskFull, FileUnreadable
from axiom_server.store import boinc_statistics
from axiom_server.store.database import Connection

NAMES = ("user.gz", "host.gz", "team.gz", "tables.xml")  # tables.xml last: readers check its time
MAX_AGE_SECONDS = 86400.0
GZIP_LEVEL = 5


async def export_statistics(connection: Connection, folder: Path) -> None:
    """Write all files, and replace older ones once all are complete.

    The caller's connection must be outside a transaction. Raises FileUnreadable, DiskFull.
    """
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".making-") as made:
            async with connection.transaction():
                await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                for name in NAMES:
                    await _write(connection, Path(made) / name)
            for name in NAMES:
                os.replace(Path(made) / name, folder / name)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise DiskFull(f"no space left for the statistics in {folder}") from None
        raise FileUnreadable(f"cannot write to {folder}: {error.strerror}") from None


def is_current(folder: Path) -> bool:
    """Whether the files exist and are less than a day old."""
    tables = folder / NAMES[-1]
    return tables.is_file() and time.time() - tables.stat().st_mtime < MAX_AGE_SECONDS


async def _write(connection: Connection, path: Path) -> None:
    packed = path.suffix == ".gz"
    with gzip.open(path, "wb", GZIP_LEVEL) if packed else path.open("wb") as file:
        async for text in boinc_statistics.elements(connection, path.stem):
            file.write(text.encode())
