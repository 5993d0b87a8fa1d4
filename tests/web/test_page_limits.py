"""Public pages are made a few at a time, so that syncs keep the processor and the connections."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from starlette.requests import Request
from starlette.responses import Response

from axiom_server.web import page_limits
from axiom_server.web.page_limits import AT_ONCE, KeptFiles, PageLimits
from axiom_server.web.refused import Refused

REQUEST = cast(Request, None)


def test_pages_are_made_a_few_at_a_time_and_all_are_answered() -> None:
    async def scenario() -> None:
        working, most = 0, 0

        async def page(_: Request) -> Response:
            nonlocal working, most
            working += 1
            most = max(most, working)
            await asyncio.sleep(0.001)
            working -= 1
            return Response("made")

        limited = PageLimits().limited(page)
        answers = await asyncio.gather(*(limited(REQUEST) for _ in range(20)))
        assert [a.body for a in answers] == [b"made"] * 20
        assert most == AT_ONCE

    asyncio.run(scenario())


def test_a_place_rests_after_its_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two pages of one place, everything else of the process gets its turns."""

    async def scenario() -> None:
        loop, rests = asyncio.get_running_loop(), []
        later = loop.call_later

        def call_later(delay: float, work: Any, *given: Any) -> Any:
            if getattr(work, "__name__", "") == "release":
                rests.append(delay)
            return later(delay, work, *given)

        monkeypatch.setattr(loop, "call_later", call_later)

        async def page(_: Request) -> Response:
            await asyncio.sleep(0.01)
            return Response("made")

        await PageLimits().limited(page)(REQUEST)
        assert rests[0] >= 0.02

    asyncio.run(scenario())


def test_too_many_that_wait_are_told_to_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_limits, "WAITING_MAX", 3)

    async def scenario() -> None:
        gate = asyncio.Event()

        async def page(_: Request) -> Response:
            await gate.wait()
            return Response("made")

        limited = PageLimits().limited(page)
        asked = [asyncio.create_task(cast(Any, limited(REQUEST))) for _ in range(AT_ONCE + 3)]
        await asyncio.sleep(0.01)
        with pytest.raises(Refused) as refused:
            await limited(REQUEST)
        assert refused.value.problem.status == 503
        gate.set()
        assert len(await asyncio.gather(*asked)) == AT_ONCE + 3

    asyncio.run(scenario())


def test_kept_files_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_limits, "KEPT_BYTES_MAX", 80)
    kept = KeptFiles()
    for number in range(10):
        kept.put(str(number), b"x" * 10)
        assert kept.get("0") is not None, "it was used last"
    assert kept.get("1") is None
    assert kept.get("9") is not None
    kept.put("large", b"x" * 11)
    assert kept.get("large") is None
