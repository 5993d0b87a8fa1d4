"""The pages escape every text, show reviews and stopped experiments, and work when empty."""

from __future__ import annotations

import asyncio
import re

from axiom_server.pages import front as front_page
from axiom_server.pages import sessions as session_pages
from axiom_server.review.session_log import session_log
from axiom_server.store.database import connect
from tests.support.cluster import fresh_database, transaction
from tests.support.server_project import ServerProject


def page(project: ServerProject, session: int | None = None) -> str | None:
    async def inside() -> str | None:
        async with connect(project.conninfo) as connection:
            if session is None:
                return await front_page.front(connection, project.config, "http://here")
            return await session_pages.one(connection, project.config, session)

    return asyncio.run(inside())


def test_an_empty_project_has_pages(postgres: str) -> None:
    with fresh_database(postgres) as conninfo:
        project = ServerProject(conninfo)
        front = page(project) or ""
        assert "No experiment is published yet." in front
        assert page(project, 1) is None


def test_reviewed_results_are_shown_and_text_is_escaped(postgres: str) -> None:
    with fresh_database(postgres) as conninfo:
        project = ServerProject(conninfo)
        project.publish()
        project.publish(name="broken_walk", title="Broken walk")
        project.deploy("short_walk", count=8)
        host = project.host("<script>alert(1)</script>", cores=8)
        assert "no data yet" in (page(project) or "")
        host.sync()
        project.later(60)
        host.succeed_all(cpu=0)
        project.review()
        project.execute(
            "UPDATE versions SET state = 'stopped', state_reason = '9 of 10 failed <b>' "
            "WHERE version_id = 2"
        )
        front = page(project) or ""
        assert '<span class="verdict preliminary">preliminary</span>' in front
        assert "8 seeds on 1 host" in front
        assert "9 of 10 failed &lt;b&gt;" in front
        assert '<a href="/sessions/1">' in front
        log = page(project, 1) or ""
        assert "&lt;script&gt;alert(1)" in log
        for text in (front, log):
            assert "<script>alert" not in text
        assert "8 results reviewed and credited (16 total credit)" in log
        assert "Session 2" not in log


def test_a_sessions_page_adds_up_what_its_log_does(postgres: str) -> None:
    """Deployments of one session, some before it was opened, add up host by host."""
    with fresh_database(postgres) as conninfo:
        project = ServerProject(conninfo)
        project.publish()
        project.publish(name="other_walk")
        hosts = [project.host(cores=4, trusted=True) for _ in range(3)]
        for host in hosts:
            host.sync()
        project.deploy("short_walk", "other_walk", fill_idle=True)
        for host in hosts:
            host.sync()
        project.later(60)
        for host in hosts:
            host.succeed_all(cpu=0)
        project.review()
        project.deploy("short_walk", count=2, hosts=[hosts[1].host_id])
        project.deploy("other_walk", count=5)
        log = transaction(conninfo, lambda c: session_log(c, project.config, 1))
        text = page(project, 1) or ""
        for host_work in log.deployed_to:
            link = rf'<a href="/hosts/{host_work.host_id}">\d+</a></td><td class="name">host\d</td>'
            line = re.search(link + 2 * r'<td class="n">(\d+)</td>', text)
            assert line is not None
            assert (int(line[1]), int(line[2])) == (host_work.cpu, host_work.gpu)
        assert len(log.deployed_to) == 3
        assert f"<h2>Experiments deployed ({log.workunits} workunits)</h2>" in text
        for work in log.deployed:
            row = rf'{work.name}@1.0.0</a>.*?<td class="n" data-label="Workunits">{work.workunits}<'
            assert re.search(row, text)
        assert f"{log.deployed_to_pool} of them for any host" in text
