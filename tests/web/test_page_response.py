"""Pages: what a browser may load, what caches may keep, what a refusal looks like."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.support.cluster import fresh_database
from tests.support.page_client import Work, with_client


@pytest.fixture
def ask(postgres: str, tmp_path: Path) -> Callable[[Work], None]:
    """Runs a function with a client of the real application."""

    def run(work: Work) -> None:
        with fresh_database(postgres) as conninfo:
            with_client(conninfo, tmp_path / "bundles", work)

    return run


def test_pages_carry_a_strict_policy_and_nothing_inline(ask: Callable[[Work], None]) -> None:
    async def work(client: httpx.AsyncClient) -> None:
        page = await client.get("/")
        assert page.status_code == 200
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "<style" not in page.text
        assert not re.search(r"<script(?![^>]*\ssrc=)", page.text)
        assert not re.search(r"\s(style|on\w+)=", page.text)

    ask(work)


def test_a_page_is_revalidated_by_its_etag(ask: Callable[[Work], None]) -> None:
    async def work(client: httpx.AsyncClient) -> None:
        page = await client.get("/sessions/1")
        assert page.status_code == 404
        page = await client.get("/")
        again = await client.get("/", headers={"if-none-match": page.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        other = await client.get("/", headers={"if-none-match": '"something"'})
        assert other.status_code == 200

    ask(work)


def test_assets_are_cached_for_ever_under_their_hash(ask: Callable[[Work], None]) -> None:
    async def work(client: httpx.AsyncClient) -> None:
        page = await client.get("/")
        found = re.findall(r"/static/[\w.]+", page.text)
        assert {path.rpartition(".")[2] for path in found} == {"css", "js", "svg"}
        for path in found:
            asset = await client.get(path)
            assert asset.status_code == 200
            assert "immutable" in asset.headers["cache-control"]
        assert (await client.get("/static/axiom.000000000000.css")).status_code == 404

    ask(work)


def test_a_refusal_is_a_page_for_browsers_and_json_for_programs(
    ask: Callable[[Work], None],
) -> None:
    async def work(client: httpx.AsyncClient) -> None:
        page = await client.get("/nowhere/<b>", headers={"accept": "text/html"})
        assert page.status_code == 404
        assert page.headers["content-type"].startswith("text/html")
        assert page.headers["cache-control"] == "no-store"
        assert "<b>" not in page.text
        problem = await client.get("/nowhere")
        assert problem.headers["content-type"] == "application/problem+json"
        refused = await client.put("/", headers={"accept": "text/html"})
        assert refused.status_code == 405
        assert "allow" in refused.headers

    ask(work)
