"""Recover results of the previous epoch, which the restored database does not know.

After a restore from a backup, the database does not know the tasks that were granted since. A host
that still has the result of such a task describes the computation (experiment, parameters, seed),
and the result is assigned to a task again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from axiom_protocol.manifest import ManifestError
from axiom_protocol.messages import Report, SyncRequest
from axiom_server.decide import epoch as epoch_rules
from axiom_server.decide.epoch import Epoch, recoverable_results
from axiom_server.decide.standing import StandingPolicy, tasks_in_hand
from axiom_server.store import epochs, experiments, reported_tasks
from axiom_server.store.database import Connection
from axiom_server.store.epochs import ClaimedResult
from axiom_server.store.reported_tasks import TaskRow
from axiom_server.store.syncing_hosts import HostRow
from axiom_server.sync.catalogue import Catalogue

Tasks = dict[int, dict[int, TaskRow]]
Refusals = dict[tuple[int, int], str]  # (host, task number) -> why the result gets no task


async def recover_tasks(
    connection: Connection, catalogue: Catalogue, policy: StandingPolicy,
    hosts: Sequence[HostRow], requests: Mapping[int, SyncRequest], tasks: Tasks, now: datetime,
) -> Refusals:  # fmt: skip
    """Add tasks for reports of the previous epoch to ``tasks``; returns why others get none."""
    refusals: Refusals = {}
    for host in hosts:
        found = _described(catalogue.epoch, requests[host.host_id], tasks[host.host_id], now)
        if found:
            refusals |= await _recover(connection, catalogue, policy, host, found)
            await _add_tasks(connection, host.host_id, [r.task_id for r in found], tasks)
    return refusals


def _described(
    epoch: Epoch | None, request: SyncRequest, known: Mapping[int, TaskRow], now: datetime
) -> list[Report]:
    """The reports that describe their work, of tasks that only the previous epoch knew."""
    return [
        report
        for report in request.reports
        if epoch is not None and report.work is not None and report.task_id not in known
        and epoch.may_recover(report.task_id, now.timestamp())
    ]  # fmt: skip


async def _recover(
    connection: Connection, catalogue: Catalogue, policy: StandingPolicy, host: HostRow,
    reports: Sequence[Report],
) -> Refusals:  # fmt: skip
    """Assign a task to each report that has none yet, as many as the account may recover."""
    known = await epochs.find_recovered(connection, [host.host_id], [r.task_id for r in reports])
    left = recoverable_results(
        tasks_in_hand(policy, host.standing), await epochs.count_recovered(connection, host.host_id)
    )
    refusals: Refusals = {}
    for report in reports:
        if (host.host_id, report.task_id) in known:
            continue
        if left is not None and left <= 0:
            refusals[host.host_id, report.task_id] = epoch_rules.TOO_MANY
        else:
            if why := await _adopt(connection, catalogue, host, report):
                refusals[host.host_id, report.task_id] = why
            if left is not None:  # a refused one counts too: it costs several queries
                left -= 1
    return refusals


async def _adopt(
    connection: Connection, catalogue: Catalogue, host: HostRow, report: Report
) -> str:
    """Assign a task to one report; returns why not, or an empty text."""
    work, epoch = report.work, catalogue.epoch
    assert work is not None and epoch is not None  # noqa: PT018  _described chooses only such
    version_id = await epochs.find_version(connection, work)
    if version_id is None:
        return epoch_rules.UNKNOWN_VERSION.format(f"{work.experiment}@{work.version}")[:200]
    await catalogue.load_versions(connection, {version_id})
    try:
        catalogue.versions[version_id].manifest.resolve(work.parameters)
    except ManifestError:
        return epoch_rules.IMPOSSIBLE
    parameters_id = await experiments.parameters_id(
        connection, version_id, work.parameters, work.budget_seconds
    )
    workunit_id = await epochs.ensure_workunit(connection, version_id, parameters_id, work)
    if workunit_id is None:
        return epoch_rules.IMPOSSIBLE
    claimed = ClaimedResult(
        host_id=host.host_id, user_id=host.user_id, task_id=report.task_id, work=work
    )  # fmt: skip
    granted_at = datetime.fromtimestamp(epoch.granted_after, UTC)
    await epochs.adopt_task(connection, claimed, workunit_id, granted_at)
    return ""


async def _add_tasks(
    connection: Connection, host_id: int, numbers: Sequence[int], tasks: Tasks
) -> None:
    """Add the tasks that replace these numbers of the previous epoch, under these numbers."""
    found = await epochs.find_recovered(connection, [host_id], numbers)
    ids = sorted(set(found.values()))
    by_id = {t.task_id: t for t in await reported_tasks.tasks_by_id(connection, [host_id], ids)}
    for (_, number), task_id in found.items():
        tasks[host_id][number] = by_id[task_id]
