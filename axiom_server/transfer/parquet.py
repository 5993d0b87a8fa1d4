"""A small table as Parquet, in memory."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from axiom_server.errors import ServerError
from axiom_server.transfer.export_results import DUCKDB_CONFIG, duckdb


def to_parquet(text: bytes, columns: Mapping[str, str]) -> bytes | None:
    """A CSV with a header as Parquet; None when DuckDB is not installed.

    columns  name -> DuckDB type, in the CSV's order
    """
    try:
        writer = duckdb()
    except ServerError:
        return None
    with (
        tempfile.TemporaryDirectory() as folder,
        writer.connect(config=DUCKDB_CONFIG) as connection,
    ):
        source, made = Path(folder) / "values.csv", Path(folder) / "values.parquet"
        source.write_bytes(text)
        table = connection.read_csv(str(source), header=True, columns=dict(columns))
        table.write_parquet(str(made), compression="zstd")
        return made.read_bytes()
