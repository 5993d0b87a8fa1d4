"""What several folders here need: the kinds of test, and a PostgreSQL of their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.server_project import ServerProject

HERE = Path(__file__).parent
#: By folder. Unit tests touch no process, socket or database; integration tests hold one room to
#: the real thing beside it; end-to-end tests run both programs as their users do.
UNIT = ("contract", "decide", "walls")
END_TO_END = ("attacks", "chaos", "e2e", "fleet", "packaging", "science", "trust")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test with its kind, so that ``-m unit`` and the others choose; the slow come first.

    Side by side, the long files then begin early and none is left to run alone at the end.
    """
    for item in items:
        item.add_marker(kind(item))
    items.sort(key=lambda item: ("e2e", "integration", "unit").index(kind(item)))


def kind(item: pytest.Item) -> str:
    """By the folder that holds the test."""
    room = item.path.relative_to(HERE).parts[0]
    return "unit" if room in UNIT else "e2e" if room in END_TO_END else "integration"


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """How to reach it; its database ``ready`` is migrated."""
    from tests.support.cluster import cluster  # the pure tests run where no server is installed

    with cluster(Path(tmp_path_factory.mktemp("pg"))) as conninfo:
        yield conninfo


@pytest.fixture
def project(postgres: str) -> Iterator[ServerProject]:
    """A new project in a database of its own, with the short walk published."""
    from tests.support.cluster import fresh_database
    from tests.support.server_project import ServerProject

    with fresh_database(postgres) as conninfo:
        made = ServerProject(conninfo)
        made.publish()
        yield made
