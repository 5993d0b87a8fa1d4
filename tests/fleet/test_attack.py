"""Requirements on a fleet under attack: a small one in the ordinary suite, others with make fleet.

``make fleet`` plays every scenario of docs/security.md with 20 and 100 honest hosts.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fleet.attack import Figures, Scenario, play, scenarios
from tests.support.cluster import cluster

FALSE_ACCEPTED_MAX = 0.01  # of the false results that were returned
FALSE_COUNTED_MAX = 0.02  # of what counts at any time: a poisoner is trusted until he is checked


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with cluster(Path(tmp_path_factory.mktemp("pg"))) as conninfo:
        yield conninfo


def check(figures: Figures) -> None:
    """Assert the requirements."""
    assert figures.validated > 100, "honest hosts' results are confirmed"
    assert figures.honest_quarantined == 0
    assert figures.accepted_share < FALSE_ACCEPTED_MAX
    assert figures.worst < FALSE_COUNTED_MAX
    assert figures.rejected == [], "no verdict is turned"
    assert figures.stopped == [], "no experiment is stopped"


@pytest.mark.parametrize("kind", ["sybil", "colluder"])
def test_three_colluding_accounts_of_any_claim_among_twenty_new_hosts(
    postgres: str, kind: str
) -> None:
    figures = play(postgres, Scenario(honest=20, attack={kind: 3}, days=2.5, cores_max=4))
    assert figures.returned > 20, "they did lie"
    assert figures.attackers_quarantined == 3
    check(figures)


@pytest.mark.slow
@pytest.mark.parametrize(
    "scenario", [s for honest in (20, 100) for s in scenarios(honest)], ids=lambda s: s.name
)
def test_the_scenarios_of_the_table(postgres: str, scenario: Scenario) -> None:
    figures = play(postgres, scenario)
    print("\n" + figures.line())
    check(figures)
