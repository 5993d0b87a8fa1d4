"""The token of a detached host is revoked, for agents of any version."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import httpx
import pytest

from axiom_client.errors import HostRefused
from axiom_client.project.api import Api, Network
from axiom_protocol.messages import Capacity, EnrolRequest, HostFacts, SyncRequest
from tests.support.programs import Server, server

FACTS = HostFacts(
    name="h", os="linux", architecture="x86_64", cpu_cores=1, memory_bytes=1 << 32,
    disk_free_bytes=1 << 32,
)  # fmt: skip
SYNC = SyncRequest(request_id="a-request", capacity=Capacity())
LAST_OF_0_1_0 = SyncRequest(request_id="detach-00000001", capacity=Capacity(), draining="detached")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = server(tmp_path_factory.mktemp("detach"))
    made.serve()
    try:
        yield made
    finally:
        assert made.stop() == 0


async def joined(url: str) -> Api:
    api = Api(url, Network())
    token = (await api.enrol(EnrolRequest(host=FACTS))).token
    await api.close()
    return Api(url, Network(), token)


@pytest.mark.parametrize("agent", ["this version", "0.1.0"])
def test_a_token_is_revoked_when_its_host_detaches(project: Server, agent: str) -> None:
    async def inside() -> None:
        api = await joined(project.url)
        try:
            await api.sync(SYNC)
            if agent == "0.1.0":
                await api.sync(LAST_OF_0_1_0)
            else:
                await api.detach()
            with pytest.raises(HostRefused):
                await api.sync(SYNC)
            with pytest.raises(HostRefused):
                await api.detach()
        finally:
            await api.close()

    asyncio.run(inside())


def test_detaching_needs_a_valid_token(project: Server) -> None:
    for headers in ({}, {"Authorization": "Bearer no-such-token"}):
        answer = httpx.delete(f"{project.url}/api/v1/hosts/self", headers=headers)
        assert answer.status_code == 401
