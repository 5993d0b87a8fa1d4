"""Handles the start, the progress and the end of a task's process, and cancels tasks."""

from __future__ import annotations

import msgspec

from axiom_client.decide import commands as c
from axiom_client.decide import events as e
from axiom_client.decide.allocate import duration_key
from axiom_client.decide.cohort import SHRINK, other_members
from axiom_client.decide.model import TaskState
from axiom_client.decide.place import ran_seconds
from axiom_client.decide.retry import retry_task
from axiom_client.decide.step_builder import StepBuilder
from axiom_client.decide.task import ALIVE, GRACE_SECONDS, WAITING
from axiom_client.decide.task_run import TaskFinished

DURATION_WEIGHT = 0.3  # of the newest run in the moving average of how long a bundle takes here


def task_started(builder: StepBuilder, event: e.TaskStarted) -> None:
    """Count the task's running time from now on."""
    task = builder.state.tasks.get(event.task_id)
    if task and task.phase == "running":
        builder.put(task, running_since=event.now)


def task_progressed(builder: StepBuilder, event: e.TaskProgressed) -> None:
    """Store the progress. It never falls within a run."""
    task = builder.state.tasks.get(event.task_id)
    if task and task.phase in ALIVE:
        builder.put(task, progress=max(task.progress, event.fraction))


def task_ended(builder: StepBuilder, event: e.TaskEnded) -> None:
    """Report the task, or put it back to run again."""
    finished = event.finished
    task = builder.state.tasks.get(finished.task_id)
    if task is None or task.phase not in ALIVE:
        # A cancelled member of a cohort: its folder was kept until the process ended.
        builder.do(c.ClearFolder(task_id=finished.task_id))
        return
    if finished.shared and not (task.phase == "stopping" and not task.keep):
        _retry_in_smaller_cohort(builder, task, finished)
        return
    retry = retry_task(finished.outcome, task.record.attempts, event.now, event.jitter)
    if task.phase == "stopping" and not task.keep:
        retry = None  # it was asked to end
    if retry is not None:
        _verify_again(builder, task)  # its script may be missing or changed on the disk
    if (task.phase == "stopping" and task.keep and finished.outcome == "cancelled") or retry:
        _put_back(builder, task, finished, retry.at if retry else event.now)
        return
    success = finished.outcome == "success"
    message = finished.message if success else task.message or finished.message
    result = finished.result if success else None
    builder.end(task, msgspec.structs.replace(finished, message=message, result=result))
    seconds = task.record.elapsed_seconds + finished.elapsed_seconds
    if success:
        key = duration_key(task, finished.core_kind)
        _remember_duration(builder, key, seconds * task.cohort_size)
        builder.log(f"task {task.task_id} of {task.ref} is done after {seconds:.1f} s")
    else:
        why = finished.message.strip().splitlines()[-1:] or [""]
        builder.log(
            f"task {task.task_id} of {task.ref} ended: {finished.outcome}: {why[0]}", "warning"
        )


def _verify_again(builder: StepBuilder, task: TaskState) -> None:
    bundle = builder.state.bundles.get(task.record.grant.sha256)
    if bundle is None or bundle.fetching:
        return
    builder.put_bundle(bundle, fetching=True)
    builder.do(
        c.FetchBundle(
            experiment=bundle.experiment, version=bundle.version, sha256=bundle.sha256,
            accepted=True,
        )
    )  # fmt: skip


def _retry_in_smaller_cohort(builder: StepBuilder, task: TaskState, finished: TaskFinished) -> None:
    """Run a task again in a smaller cohort: another member may have ended the process."""
    size_max = max(1, task.cohort_size // SHRINK)
    builder.log(
        f"task {task.task_id} of {task.ref} runs again in a cohort of at most {size_max}: "
        f"its cohort of {task.cohort_size} ended as {finished.outcome}",
        "warning",
    )
    record = msgspec.structs.replace(task.record, cohort_most=size_max)
    task = msgspec.structs.replace(task, record=record)
    _put_back(builder, task, finished, builder.state.now)


def _put_back(
    builder: StepBuilder, task: TaskState, finished: TaskFinished, retry_at: float
) -> None:
    record = msgspec.structs.replace(
        task.record,
        elapsed_seconds=task.record.elapsed_seconds + finished.elapsed_seconds,
        cpu_seconds=task.record.cpu_seconds + finished.cpu_seconds,
    )
    builder.save(record)
    builder.advance(
        task, "put_back", record=record, keep=False, gpus=[], ran_seconds=0.0, retry_at=retry_at,
        cohort=0, cohort_size=1,
    )  # fmt: skip
    builder.log(f"task {task.task_id} of {task.ref} is stopped until later")


def _remember_duration(builder: StepBuilder, key: str, seconds: float) -> None:
    old = builder.state.durations.get(key, seconds)
    builder.state.durations[key] = old + DURATION_WEIGHT * (seconds - old)
    builder.save_value("durations", dict(sorted(builder.state.durations.items())))


def cancel(builder: StepBuilder, task: TaskState, reason: str) -> None:
    """Cancel a task: stop its process, or report it at once if it has none of its own."""
    if task.phase in WAITING:
        builder.end_without_run(task, "cancelled", reason)
    elif task.phase in ("running", "paused") and other_members(task, builder.state.tasks):
        _leave_cohort(builder, task, reason)
    elif task.phase in ("running", "paused"):
        builder.advance(task, "stop")
        builder.do(c.StopTask(task_id=task.process_id, grace_seconds=GRACE_SECONDS))


def _leave_cohort(builder: StepBuilder, task: TaskState, reason: str) -> None:
    """Report a cancelled member at once. The others go on, so its folder stays until they end."""
    seconds = ran_seconds(task, builder.state.now) / task.cohort_size
    finished = TaskFinished(
        task_id=task.task_id, outcome="cancelled", message=reason, elapsed_seconds=seconds
    )
    builder.end(task, finished, keep_folder=True)
