"""`axiom-server export results`: write accepted results as CSV or Parquet."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

from axiom_server.errors import DiskFull, ExperimentUnknown, FileUnreadable, ServerError
from axiom_server.publish.deploy import suggest_names
from axiom_server.store import experiments, exports
from axiom_server.store.database import Connection

#: DuckDB must not download extensions: those needed are built in.
DUCKDB_CONFIG: dict[str, Any] = {"autoinstall_known_extensions": "false"}


def duckdb() -> ModuleType:
    """The DuckDB module, which writes Parquet. Raises ServerError when it is not installed."""
    try:
        import duckdb as found
    except ImportError:
        raise ServerError(
            "Parquet is written by DuckDB, which is not installed: "
            "pip install 'axiom-client[server,analysis]', or export CSV without --parquet"
        ) from None
    return found


async def export_results(
    connection: Connection, target: Path, names: list[str], *, parquet: bool
) -> None:  # fmt: skip
    """Write the file, and replace an existing one once it is complete.

    Raises ExperimentUnknown, FileUnreadable, DiskFull, and ServerError without DuckDB.
    """
    writer = duckdb() if parquet else None
    await _check_names(connection, names)
    try:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".export-") as folder:
            made = Path(folder) / "results.csv"
            with made.open("wb") as file:
                async for piece in exports.results_csv(connection, names or None):
                    file.write(piece)
            if writer is not None:
                made = _to_parquet(writer, made)
            os.replace(made, target)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise DiskFull(f"no space left for {target}") from None
        raise FileUnreadable(f"cannot write {target}: {error.strerror}") from None


async def _check_names(connection: Connection, names: list[str]) -> None:
    known = await experiments.names(connection)
    for name in names:
        if name not in known:
            raise ExperimentUnknown(
                f"there are no results of {name!r}; {suggest_names(name, known)}"
            )


def _to_parquet(writer: ModuleType, source: Path) -> Path:
    made = source.with_suffix(".parquet")
    with writer.connect(config=DUCKDB_CONFIG) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        table = connection.read_csv(str(source), header=True, columns=exports.COLUMNS)
        table.write_parquet(str(made), compression="zstd")
    return made
