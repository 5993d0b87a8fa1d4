"""All bodies of a serving process share one budget, those of forms too."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from axiom_server.web.bodies import BodyBudget
from tests.support.cluster import fresh_database
from tests.support.page_client import with_client


@pytest.mark.parametrize("path", ["/account/sign-in", "/staff/sign-in", "/api/v1/hosts"])
@pytest.mark.parametrize("full", [False, True])
def test_a_body_needs_a_share_of_the_budget(
    postgres: str, tmp_path: Path, path: str, full: bool
) -> None:
    budget = BodyBudget()
    if full:
        half = budget.total_bytes // 2  # the most of one address
        budget.take("192.0.2.1", half)
        budget.take("192.0.2.2", budget.total_bytes - half)

    async def work(client: httpx.AsyncClient) -> None:
        answer = await client.post(path, data={"key": "wrong"})
        assert (answer.status_code == 503) == full

    with fresh_database(postgres) as conninfo:
        with_client(conninfo, tmp_path / "bundles", work, budget)
