"""What several modules here need: a PostgreSQL of their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.adapters.cluster import cluster


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """How to reach it; its database ``ready`` is migrated."""
    with cluster(Path(tmp_path_factory.mktemp("pg"))) as conninfo:
        yield conninfo
