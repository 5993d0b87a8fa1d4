"""``python -m tests.fleet --seed 1``: run the simulated fleet on a new PostgreSQL."""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from pathlib import Path

import psycopg
from psycopg.conninfo import make_conninfo

from axiom_server.store.embedded import EmbeddedPostgres
from tests.fleet.simulation import Simulation


def main() -> None:
    """Run one simulation and print its outcome."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--hosts", type=int, default=1_000)
    parser.add_argument("--days", type=float, default=10.0)
    parser.add_argument("--per-slot", type=float, default=6.0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="axiom-fleet-") as folder:
        postgres = EmbeddedPostgres(Path(folder) / "postgres", Path(folder) / "postgres.log")
        conninfo = postgres.open()
        try:
            with psycopg.connect(conninfo, autocommit=True) as connection:
                connection.execute("CREATE DATABASE fleet")
            simulation = Simulation(
                conninfo=make_conninfo(conninfo, dbname="fleet"), seed=given.seed,
                count=given.hosts, days=given.days, workunits_per_slot=given.per_slot, verbose=True,
            )  # fmt: skip
            outcome = asyncio.run(simulation.run())
        finally:
            postgres.close()
    print("\n".join(outcome.lines()))


if __name__ == "__main__":
    main()
