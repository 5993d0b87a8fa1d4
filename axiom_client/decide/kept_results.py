"""Results that the server has acknowledged, kept for a server that loses them.

A server that is restored from a backup does not know what hosts reported since. So the agent keeps
acknowledged results until they are in a backup, or for some days, within bounds; and when the
server says that a new epoch has begun, it reports again those that are not in its database.
"""

from __future__ import annotations

from axiom_client.decide import commands as c
from axiom_client.decide.model import KeptResult, TaskState
from axiom_client.decide.step_builder import StepBuilder
from axiom_protocol.messages import SyncAnswer
from axiom_protocol.text import counted

KEPT_SECONDS = 7 * 86_400.0  # a project without daily backups loses more than this saves
KEPT_RESULTS_MAX = 5_000  # two days of eight cores with tasks of five minutes
KEPT_BYTES_MAX = 16 * 1024 * 1024  # in the journal
RECORD_BYTES = 1_000  # about as much as a task takes beside its result


def keep_result(builder: StepBuilder, task: TaskState, answer: SyncAnswer) -> None:
    """Keep the acknowledged result of a task that is no longer in hand."""
    kept = KeptResult(
        task_id=task.task_id, acknowledged_at=answer.answered_at, kept_wall=builder.state.wall,
        size_bytes=task.report_bytes + RECORD_BYTES,
    )  # fmt: skip
    builder.state.kept[kept.task_id] = kept
    builder.do(c.KeepResult(kept=kept))


def is_worth_keeping(task: TaskState, answer: SyncAnswer) -> bool:
    """Whether a restored server could ask for this result: it credits successes only, and servers
    of 0.1.0 have no epochs."""
    return bool(answer.epoch) and task.outcome == "success"


def enter_epoch(builder: StepBuilder, answer: SyncAnswer) -> None:
    """Note the server's epoch; in a new one, report again what its database has lost."""
    state = builder.state
    if not answer.epoch or answer.epoch == state.epoch:
        return
    known, state.epoch = state.epoch, answer.epoch
    builder.save_value("epoch", answer.epoch)
    if not known:
        return
    lost = sorted(
        kept.task_id for kept in state.kept.values() if kept.acknowledged_at >= answer.restored_from
    )
    builder.log(
        f"the server was restored from a backup; {counted(len(lost), 'result')} reported again",
        "warning",
    )
    for task_id in lost:
        del state.kept[task_id]
    if lost:
        builder.do(c.ReportAgain(task_ids=lost))
        builder.do(c.ReloadTasks(task_ids=lost))


def drop_results(builder: StepBuilder, answer: SyncAnswer) -> None:
    """Drop kept results that are in a backup or too old, and the oldest ones beyond the bounds."""
    state = builder.state
    oldest_first = sorted(state.kept.values(), key=lambda kept: (kept.kept_wall, kept.task_id))
    size = sum(kept.size_bytes for kept in oldest_first)
    count = len(oldest_first)
    dropped = []
    for kept in oldest_first:
        saved = kept.acknowledged_at < answer.backed_up_at
        old = state.wall - kept.kept_wall > KEPT_SECONDS
        if saved or old or count > KEPT_RESULTS_MAX or size > KEPT_BYTES_MAX:
            dropped.append(kept.task_id)
            count, size = count - 1, size - kept.size_bytes
    for task_id in dropped:
        del state.kept[task_id]
    if dropped:
        builder.do(c.DropResults(task_ids=dropped))
