"""A project with much in it: the whole library at twenty seeds, and what volunteers and staff do.

Scripts and signatures are real, and so is the way of a result: granted, reported, reviewed. The
results are not computed, see ``plausible``.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from msgspec.structs import replace

from axiom_protocol.manifest import Manifest, read_manifest
from axiom_protocol.messages import Grant, HostSettings, HostStatus, IdleSlots, Report
from axiom_protocol.verdicts.study_design import StudyDesign, read_study
from axiom_server.project_folder import ProjectFolder
from axiom_server.publish.deploy import select_versions
from axiom_server.review import studies
from axiom_server.store import accounts, experiments, machines, users
from axiom_server.store.database import Connection, as_json
from axiom_server.trust.keys import load_keys
from tests.support import plausible
from tests.support.cluster import transaction
from tests.support.processes import wait_for
from tests.support.programs import Server, server
from tests.support.server_project import Host, ServerProject

LIBRARY = Path(__file__).parents[2] / "experiments"
SEEDS = 20
STUDY_SEEDS = 4
ROUNDS_MAX = 10  # in which hosts compute a study
DRAWING_SECONDS = 300.0
DAYS = 5  # on which results were reviewed
COMPUTING_SECONDS = 900.0  # between a grant and its report: less than a lease
#: Names as people have them, and as long as they may be; the first founds a team.
FOUNDER, WIDE = "Ada Lovelace", "W" * 64
NAMES = (
    FOUNDER,
    WIDE,
    "مختبر الشبكات",
    "神經網路研究會",
    "Grace",
    "[MM] zombie",
    "o'Neil & <sons>",
)
STAFF = "Barbara"
MANY_HOSTS = 12  # of the first of ``NAMES``
HUGE = 98_765_432_109_876  # credit
REFUSING = HostStatus(state="running", refuses=True)


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
    try:
        made.serve()
    except BaseException:
        made.kill()
        raise
    conninfo = ProjectFolder(made.folder).embedded().conninfo
    key = made.json("staff", "add", STAFF)["key"]
    return FilledProject(server=made, conninfo=conninfo, staff_key=key)


def give_keys(project: FilledProject, names: Iterable[str]) -> None:
    """Make an account, with a key, for each name."""

    async def work(connection: Connection) -> None:
        for name in names:
            project.account_keys[name], stored = users.new_secret()
            await users.create_or_claim(connection, name, stored)

    transaction(project.conninfo, work)


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
        _compute_once(project, manifests, part * len(names))
        data.review()
        _put_back_sessions(data)


def _compute_once(
    project: FilledProject, manifests: Mapping[str, Manifest], workunits: int
) -> None:
    """Let all hosts together ask for so many workunits, and report them."""
    for host in project.hosts:
        host.sync(cpu=workunits // len(project.hosts) + 1)
    project.data.later(COMPUTING_SECONDS)
    for host in project.hosts:
        host.sync([_report(manifests, g) for g in host.held.values()], cpu=0)


def _parts(total: int, parts: int) -> list[int]:
    return [total * (i + 1) // parts - total * i // parts for i in range(parts)]


def _put_back_sessions(data: ServerProject) -> None:
    data.execute("UPDATE sessions SET opened_at = opened_at - interval '1 day'")


def _report(manifests: Mapping[str, Manifest], grant: Grant) -> Report:
    manifest = manifests[f"{grant.experiment}@{grant.version}"]
    seconds = manifest.expected_seconds * (0.5 + grant.seed % 7 / 7)
    result = plausible.result(manifest, grant.seed)
    if manifest.name == "kernel_change" and "alpha" in grant.parameters:
        result |= {"log_kernel_change": _kernel_change(grant)}
    return Report(
        task_id=grant.task_id, outcome="success", elapsed_seconds=seconds,
        cpu_seconds=seconds * 0.9, result=result,
    )  # fmt: skip


def _kernel_change(grant: Grant) -> float:
    """Of the study's parameters: log10 |K - K0| / |K0|, less with alpha, and some noise."""
    alpha, width = float(grant.parameters["alpha"]), float(grant.parameters["width"])
    noise = random.Random(f"{grant.seed} {alpha} {width}").gauss(0.0, 0.03)
    return noise - 1.0 - 0.9 * math.log10(alpha * math.sqrt(width / 64))


def small_study() -> StudyDesign:
    """The library's study on a part of its grid, without refinement."""
    whole = read_study((LIBRARY / "studies" / "lazy_rich.toml").read_text())
    axes = {name: replace(axis, values=axis.values[::3]) for name, axis in whole.axes.items()}
    return replace(whole, seeds=STUDY_SEEDS, axes=axes, refine=None)


def add_study(project: FilledProject, manifests: Mapping[str, Manifest]) -> None:
    """Declare a study; hosts report all its workunits."""
    design, data = small_study(), project.data

    async def declare(connection: Connection) -> int:
        (version,) = await select_versions(connection, [design.experiment])
        made = await studies.declare(connection, design, version)
        assert made is not None
        return made[1]

    workunits = transaction(project.conninfo, declare)
    for _ in range(ROUNDS_MAX):  # a host gets no more of one experiment than its slots hold
        _compute_once(project, manifests, workunits)
        data.review()
        if not project.server.json("study", "show", design.name)["out"]:
            return
    raise AssertionError("the study's workunits were not all computed")


def draw(project: FilledProject) -> None:
    """Draw the study and the declared figures; the serving process may be at it already."""
    wait_for(
        "the figures to be drawn",
        lambda: project.server.run("refresh-pages").splitlines()[-1].startswith("0 "),
        DRAWING_SECONDS,
    )


def add_hosts(project: FilledProject) -> None:
    """Hosts of all volunteers; staff trust them all but the last."""
    data = project.data
    for i, name in enumerate([*[FOUNDER] * (MANY_HOSTS - 1), *NAMES]):
        gpus = i % 3 if i < MANY_HOSTS else 0
        project.hosts.append(data.host(name, cores=8 << i % 5, gpus=gpus, trusted=True))
    data.execute("UPDATE hosts SET name = %s WHERE host_id = 2", "host." + "w" * 59)


def add_teams(project: FilledProject) -> None:
    """A team that ``FOUNDER`` founds and others enter, and one whose name is long."""

    async def work(connection: Connection) -> None:
        await accounts.found_team(connection, 1, "The Difference Engines")
        await accounts.found_team(connection, 2, "M" * 64)
        await accounts.enter_team(connection, 3, 1)

    transaction(project.conninfo, work)


def set_machines(project: FilledProject) -> None:
    """What hosts say of themselves, and what the account sets for them and for a group."""
    data = project.data
    idle = [IdleSlots(slots=3, reason="the owner works"), IdleSlots(slots=1, reason="no work")]
    paused = HostStatus(state="paused", reason="by the account", idle=idle, mode="gaming")
    for number, status in enumerate((HostStatus(state="running"), paused, REFUSING), start=1):
        data.execute("UPDATE hosts SET status = %s::jsonb WHERE host_id = %s",
                     as_json(status), number)  # fmt: skip
    limits = HostSettings(cpu_share=0.5, gpus=0, on_battery=False, schedule=[(60, 480)])

    async def work(connection: Connection) -> None:
        await machines.put_in_group(connection, 1, [3, 4, 5], "office " + "g" * 40)
        await machines.set_group(connection, 1, "office " + "g" * 40, limits)
        await machines.set_hosts(connection, 1, [2], HostSettings(paused=True, cpu_cores=4))

    transaction(project.conninfo, work)


def trouble(project: FilledProject) -> None:
    """What staff have to look at: alarms, a stopped version, a quarantined host, comparisons."""
    data, why = project.data, "12 of its last 12 tasks failed, for 5 of 5 accounts"
    data.execute("INSERT INTO alarms (version_id, kind, message) VALUES (2, 'errors', %s)", why)
    data.execute("UPDATE versions SET state = 'stopped', state_reason = %s WHERE version_id = 2",
                 why)  # fmt: skip
    data.execute("UPDATE hosts SET state = 'quarantined', state_reason = %s WHERE host_id = 12",
                 "3 results in a week disagree with those of two other accounts")  # fmt: skip
    data.execute("""INSERT INTO comparisons (workunit_id, task_id, state)
                    SELECT workunit_id, task_id, 'disputed' FROM tasks ORDER BY 1 LIMIT 3""")


def enlarge(project: FilledProject) -> None:
    """Numbers as large as a project may have after years."""
    data = project.data
    for table, key in (("users", "user_id"), ("hosts", "host_id")):
        data.execute(f"UPDATE {table} SET credit_total = %s, average = 1e11, average_at = now() "
                     f"WHERE {key} = 2", HUGE)  # fmt: skip
    data.execute("UPDATE sessions SET results = 123456789, credit = %s WHERE session_id = 2", HUGE)


def filled(folder: Path, *, extremes: bool = True) -> FilledProject:
    """The whole: see the module's docstring. It serves. ``extremes``: trouble and huge numbers."""
    project = open_project(folder)
    give_keys(project, NAMES)
    add_hosts(project)
    add_teams(project)
    manifests = publish_library(project)
    compute(project, manifests)
    add_study(project, manifests)
    draw(project)
    for add in (set_machines, *((trouble, enlarge) if extremes else ())):
        add(project)
    return project
