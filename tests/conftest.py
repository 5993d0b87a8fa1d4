"""Shared by several folders: the kinds of tests, and fixtures with a PostgreSQL."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.server_project import ServerProject

HERE = Path(__file__).parent
#: Kinds of tests, by folder. Unit tests use no process, socket or database. Integration tests run
#: one package against its real neighbours. End-to-end tests run both programs as users do.
UNIT = ("contract", "decide", "walls")
END_TO_END = ("attacks", "chaos", "e2e", "fleet", "packaging", "science", "trust")
#: Files that take longest, most of it waiting: they start first.
LONGEST = (
    "agent/test_loop.py",
    "e2e/test_takeover.py",
    "run/test_standstill.py",
    "e2e/test_main_job.py",
    "e2e/test_evening.py",
    "packaging/test_agent_as_service.py",
    "trust/test_agent.py",
    "run/test_standby.py",
    "e2e/test_copies_and_restores.py",
    "e2e/test_update.py",
    "run/test_pool.py",
    "e2e/test_cohorts.py",
    "publish/test_dry_run.py",
    "agent/test_recovery.py",
    "store/test_embedded.py",
    "science/test_rank_dynamics.py",
    "science/test_sam_vs_sgd_v2.py",
    "control/test_control.py",
    "pages/test_browser.py",
    "store/test_standing.py",
    "science/test_drift.py",
    "science/test_confirmed.py",
    "web/test_page_refresh.py",
)
OBJECTS_BETWEEN_COLLECTIONS = 50_000


def pytest_collection_finish() -> None:
    """Look for cycles of objects less often, and never at the tests themselves: a tenth faster."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(OBJECTS_BETWEEN_COLLECTIONS)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test with its kind, for ``-m unit`` and others, and run long files first.

    So when tests run in parallel, no long file is left to run alone at the end.
    """
    for item in items:
        item.add_marker(kind(item))
    items.sort(key=lambda item: (_rank(item), ("e2e", "integration", "unit").index(kind(item))))


def _rank(item: pytest.Item) -> int:
    file = item.path.relative_to(HERE).as_posix()
    return LONGEST.index(file) if file in LONGEST else len(LONGEST)


def kind(item: pytest.Item) -> str:
    """By the folder that holds the test."""
    room = item.path.relative_to(HERE).parts[0]
    return "unit" if room in UNIT else "e2e" if room in END_TO_END else "integration"


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The connection string of a PostgreSQL whose database ``ready`` is migrated."""
    from tests.support.cluster import cluster  # the pure tests run where no server is installed

    with cluster(Path(tmp_path_factory.mktemp("pg"))) as conninfo:
        yield conninfo


@pytest.fixture
def project(postgres: str) -> Iterator[ServerProject]:
    """A new project in its own database, with the short walk published."""
    from tests.support.cluster import fresh_database
    from tests.support.server_project import ServerProject

    with fresh_database(postgres) as conninfo:
        made = ServerProject(conninfo)
        made.publish()
        yield made
