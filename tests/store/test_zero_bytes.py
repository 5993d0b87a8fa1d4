"""Zero bytes, which PostgreSQL refuses: one sent by a host must not fail other hosts' syncs."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from axiom_protocol.messages import Capacity, Grant, SyncRequest, Work
from axiom_server.decide import epoch
from axiom_server.store import epochs
from axiom_server.store.database import connect
from axiom_server.sync.catalogue import Catalogue
from axiom_server.sync.transaction import SyncCall, SyncReplies, answer_syncs
from tests.support.cluster import transaction
from tests.support.server_project import ServerProject

FIELDS = ("run", "place", "epoch", "draining", "state", "reason", "revision", "mode")


def request(field: str, text: str) -> SyncRequest:
    """A request as it arrives, with this text in one field."""
    run: dict[str, object] = {"run": "r"}
    status: dict[str, object] = {}
    message: dict[str, object] = {
        "request_id": "request-1", "capacity": {}, "run": run, "status": status,
    }  # fmt: skip
    places: dict[str, dict[str, object]] = {
        "run": run, "place": run, "epoch": message, "draining": message,
    }  # fmt: skip
    places.get(field, status)[field] = text
    return msgspec.json.decode(msgspec.json.encode(message), type=SyncRequest)


def answer(project: ServerProject, calls: list[SyncCall]) -> SyncReplies:
    async def inside() -> SyncReplies:
        catalogue = Catalogue()
        async with connect(project.conninfo) as connection:
            await catalogue.refresh(connection)
            return await answer_syncs(connection, catalogue, project.config, calls)

    return asyncio.run(inside())


@pytest.mark.parametrize("text", ["a\x00b", "\x00"])
def test_hosts_in_one_transaction_with_one_that_sends_a_zero_byte_are_answered(
    project: ServerProject, text: str
) -> None:
    honest = project.host()
    for field in FIELDS:
        evil = project.host(vouched=False)
        plain = SyncRequest(request_id=f"honest-{field}", capacity=Capacity())
        calls = [SyncCall(token=evil.token, request=request(field, text)),
                 SyncCall(token=honest.token, request=plain)]  # fmt: skip
        assert honest.token in answer(project, calls).answers, field


def test_work_with_a_zero_byte_is_refused(project: ServerProject) -> None:
    project.execute("ALTER TABLE tasks ALTER COLUMN task_id RESTART WITH 100")
    transaction(project.conninfo, epochs.begin)
    host = project.host()
    work = Work(experiment="a\x00", version="1\x00", parameters={}, seed=1, budget_seconds=1.0)
    report = msgspec.structs.replace(host.success(_grant()), work=work, task_id=50)
    refusals = [a.refusal for a in host.sync([report], epoch="before").acknowledged]
    assert len(refusals) == 1
    assert refusals[0]


def _grant() -> Grant:
    return Grant(task_id=50, experiment="a", version="1", sha256="0" * 64, parameters={}, seed=1,
                 budget_seconds=1.0, lease_seconds=1.0)  # fmt: skip


def test_results_of_no_published_version_cost_no_more_queries_than_others(
    project: ServerProject,
) -> None:
    project.execute("ALTER TABLE tasks ALTER COLUMN task_id RESTART WITH 1000")
    transaction(project.conninfo, epochs.begin)
    host = project.host(vouched=False)
    work = Work(experiment="none", version="1", parameters={}, seed=1, budget_seconds=1.0)
    told = msgspec.structs.replace(host.success(_grant()), work=work)
    reports = [msgspec.structs.replace(told, task_id=n) for n in range(1, 301)]
    answers = [a.refusal for a in host.sync(reports, epoch="before").acknowledged]
    assert sum(text == epoch.TOO_MANY for text in answers) == 300 - 8 * epoch.RECOVERED_PER_TASK
