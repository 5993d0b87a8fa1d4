"""A project with much in it: the whole library at twenty seeds, and what volunteers and staff do.

Scripts and signatures are real, and so is the way of a result: granted, reported, reviewed. The
results are not computed, see ``plausible``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from axiom_protocol.manifest import Manifest, read_manifest
from axiom_protocol.messages import Grant, Report
from axiom_server.project_folder import ProjectFolder
from axiom_server.store import experiments, users
from axiom_server.store.database import Connection
from axiom_server.trust.keys import load_keys
from tests.support import plausible
from tests.support.cluster import transaction
from tests.support.programs import Server, server
from tests.support.server_project import Host, ServerProject

LIBRARY = Path(__file__).parents[2] / "experiments"
SEEDS = 20
DAYS = 5  # on which results were reviewed
COMPUTING_SECONDS = 900.0  # between a grant and its report: less than a lease
#: Names as people have them, and as long as they may be; the first founds a team.
FOUNDER, WIDE, RIGHT_TO_LEFT, CHINESE = "Ada Lovelace", "W" * 64, "مختبر الشبكات", "神經網路訓練研究會"
NAMES = (FOUNDER, WIDE, RIGHT_TO_LEFT, CHINESE, "Grace", "[MM] zombie", "o'Neil & <sons>")
STAFF = "Barbara"
MANY_HOSTS = 12  # of the first of ``NAMES``
HUGE = 98_765_432_109_876  # credit


@dataclass(kw_only=True)
class FilledProject:
    """The server program, not yet serving, and the keys of who may sign in to its pages."""

    server: Server
    conninfo: str
    account_keys: dict[str, str] = field(default_factory=dict)
    staff_key: str = ""
    hosts: list[Host] = field(default_factory=list)

    @property
    def data(self) -> ServerProject:
        """Its database."""
        return ServerProject(self.conninfo)


def open_project(folder: Path) -> FilledProject:
    """A new project without anything in it. Its database runs until ``server`` has stopped."""
    made = server(folder)
    made.serve()
    conninfo = ProjectFolder(made.folder).embedded().conninfo
    key = made.json("staff", "add", STAFF)["key"]
    return FilledProject(server=made, conninfo=conninfo, staff_key=key)


def give_keys(project: FilledProject, names: Iterable[str]) -> None:
    """Make an account, with a key, for each name."""
    for name in names:
        key, stored = users.new_secret()
        transaction(project.conninfo, lambda c, n=name, s=stored: users.create_or_claim(c, n, s))
        project.account_keys[name] = key


def publish_library(project: FilledProject) -> dict[str, Manifest]:
    """Sign and store every experiment, and an older version of one of them before."""
    sources = [path.read_text() for path in sorted(LIBRARY.glob("*.py"))]
    older = re.sub(r'(?m)^# version = ".*"$', '# version = "0.9.0"', sources[-1])
    return {m.ref: m for m in (_publish(project, source) for source in (older, *sources))}


def _publish(project: FilledProject, source: str) -> Manifest:
    folder, manifest = ProjectFolder(project.server.folder), read_manifest(source)
    published = folder.bundles.publish(source.encode(), load_keys(folder.keys, None))

    async def work(connection: Connection) -> None:
        declared = folder.bundles.declarations().get(manifest.ref)
        await experiments.record_version(connection, manifest, published.sha256, None, declared)

    transaction(project.conninfo, work)
    return manifest


def compute(project: FilledProject, manifests: Mapping[str, Manifest], seeds: int = SEEDS) -> None:
    """Let hosts report so many seeds of every experiment, over several days and sessions."""
    data = project.data
    names = sorted({m.name for m in manifests.values()})
    for part in _parts(seeds, DAYS):
        for name in names:
            data.deploy(name, count=part)
        for host in project.hosts:
            host.sync(cpu=part * len(names) // len(project.hosts) + 1)
        data.later(COMPUTING_SECONDS)
        for host in project.hosts:
            host.sync([_report(manifests, g) for g in host.held.values()], cpu=0)
        data.review()
        _put_back_sessions(data)


def _parts(total: int, parts: int) -> list[int]:
    return [total * (i + 1) // parts - total * i // parts for i in range(parts)]


def _put_back_sessions(data: ServerProject) -> None:
    data.execute("UPDATE sessions SET opened_at = opened_at - interval '1 day'")


def _report(manifests: Mapping[str, Manifest], grant: Grant) -> Report:
    manifest = manifests[f"{grant.experiment}@{grant.version}"]
    seconds = manifest.expected_seconds * (0.5 + grant.seed % 7 / 7)
    return Report(
        task_id=grant.task_id, outcome="success", elapsed_seconds=seconds,
        cpu_seconds=seconds * 0.9, result=plausible.result(manifest, grant.seed),
    )  # fmt: skip


def add_hosts(project: FilledProject) -> None:
    """Hosts of all volunteers; staff trust them all but the last."""
    data = project.data
    for i, name in enumerate([*[FOUNDER] * (MANY_HOSTS - 1), *NAMES]):
        gpus = i % 3 if i < MANY_HOSTS else 0
        project.hosts.append(data.host(name, cores=8 << i % 5, gpus=gpus, trusted=True))
    data.execute("UPDATE hosts SET name = %s WHERE host_id = 2", "host." + "w" * 59)


def filled(folder: Path) -> FilledProject:
    """The whole: see the module's docstring. It serves."""
    project = open_project(folder)
    give_keys(project, NAMES)
    add_hosts(project)
    compute(project, publish_library(project))
    return project
