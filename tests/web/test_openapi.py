"""The server behaves as its OpenAPI description says, tested by schemathesis."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.routing import Route

from axiom_server.config import Config
from axiom_server.maintenance.rounds import Maintenance
from axiom_server.store.database import make_pool
from axiom_server.sync.batcher import SyncBatcher
from axiom_server.web import openapi
from axiom_server.web.api import Api, application
from axiom_server.web.metrics import Metrics
from tests.support.programs import Server, server

EXAMPLES = 25  # of each operation; `make fuzz` sends the decoders 100,000
FACTS = {
    "name": "contract", "os": "linux", "architecture": "x86_64", "cpu_cores": 2,
    "memory_bytes": 1 << 34, "disk_free_bytes": 1 << 34,
}  # fmt: skip


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = server(tmp_path_factory.mktemp("contract"))
    made.serve()
    try:
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def token(project: Server) -> str:
    answer = httpx.post(f"{project.url}/api/v1/hosts", json={"host": FACTS, "user": "contract"})
    return str(answer.raise_for_status().json()["token"])


LABELS = [
    f"{method.upper()} {path}"
    for path, methods in openapi.document()["paths"].items()
    for method in methods
]


@cache
def operations() -> dict[str, Any]:
    """By label. Each worker collects this file; only the one that runs it imports schemathesis."""
    import schemathesis

    schema = schemathesis.openapi.from_dict(openapi.document())
    return {found.ok().label: found.ok() for found in schema.get_all_operations()}


def test_every_operation_is_tested() -> None:
    assert sorted(operations()) == sorted(LABELS)


@pytest.mark.parametrize("label", LABELS)
def test_answers_conform_to_the_openapi_description(
    label: str, project: Server, token: str
) -> None:
    """Right and wrong requests: no failure of the server's, no answer that is not described."""
    from schemathesis import GenerationMode
    from schemathesis.specs.openapi.checks import ignored_auth

    modes = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
    operation = operations()[label]

    @settings(
        max_examples=EXAMPLES, deadline=None, derandomize=True, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(case=st.one_of(*(operation.as_strategy(generation_mode=mode) for mode in modes)))
    def ask(case: Any) -> None:
        headers = {"authorization": f"Bearer {token}"} if case.path == "/api/v1/sync" else {}
        case.call_and_validate(
            base_url=project.url,
            headers=headers,
            excluded_checks=[ignored_auth],  # next test
        )

    ask()


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer no-such-token"}])
def test_a_sync_needs_a_token(project: Server, headers: dict[str, str]) -> None:
    body = {"request_id": "00000000", "capacity": {}}
    answer = httpx.post(f"{project.url}/api/v1/sync", json=body, headers=headers)
    assert answer.status_code == 401


def test_the_openapi_document_is_served(project: Server) -> None:
    assert httpx.get(f"{project.url}/openapi.json").json() == openapi.document()


def test_every_route_is_described() -> None:
    """What is served and what is described are the same list."""
    pool, config = make_pool(""), Config()  # never opened
    batcher = SyncBatcher(pool=pool, config=config)
    api = Api(config=config, bundles=Path(), pool=pool, batcher=batcher, metrics=Metrics())
    app = application(api, Maintenance.__new__(Maintenance))
    served = {
        (route.path.replace(":int}", "}"), method.lower())
        for route in app.routes
        if isinstance(route, Route)
        and not route.path.startswith(("/account", "/staff"))  # forms for people
        for method in (route.methods or ()) - {"HEAD"}
    }
    described = {(p, m) for p, methods in openapi.document()["paths"].items() for m in methods}
    assert served == described


def test_the_page_lists_every_route() -> None:
    page = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
    for path in openapi.document()["paths"]:
        shown = path.replace("{number}", "N").replace("/bundles/{kind}/{name}", "/bundles/targets/")
        assert f" {shown}" in page
