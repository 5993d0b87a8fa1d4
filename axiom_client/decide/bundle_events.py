"""Handles the end of a bundle's download: fetched, refused or failed."""

from __future__ import annotations

from axiom_client.decide import events as e
from axiom_client.decide.model import Bundle, Phase, TaskState
from axiom_client.decide.retry import retry_bundle
from axiom_client.decide.step_builder import StepBuilder
from axiom_client.decide.task import ALIVE, WAITING


def bundle_fetched(builder: StepBuilder, event: e.BundleFetched) -> None:
    """Store the verified bundle: tasks that wait for it may start."""
    bundle = builder.state.bundles.get(event.sha256)
    if bundle is None:
        return
    builder.put_bundle(
        bundle,
        fetching=False,
        path=event.path,
        manifest=event.manifest,
        verified_at=event.now,
        attempts=0,
        problem="",
    )


def bundle_refused(builder: StepBuilder, event: e.BundleRefused) -> None:
    """Let the waiting tasks of a refused bundle fail."""
    bundle = builder.state.bundles.get(event.sha256)
    if bundle is None:
        return
    builder.log(f"{bundle.ref} is refused and not run: {event.problem}", "error")
    for task in _tasks_of(builder, event.sha256, WAITING):
        builder.end_without_run(task, "failed", f"bundle refused: {event.problem}")
    _forget_bundle(builder, bundle)


def bundle_failed(builder: StepBuilder, event: e.BundleFailed) -> None:
    """Try again later; after the last attempt, give the bundle's tasks back."""
    bundle = builder.state.bundles.get(event.sha256)
    if bundle is None:
        return
    attempts = bundle.attempts + 1
    decision = retry_bundle(event.now, attempts, event.jitter)
    if decision is None:
        for task in _tasks_of(builder, event.sha256, frozenset({"granted"})):
            builder.give_back(task, f"{bundle.ref} could not be fetched: {event.problem}")
        _forget_bundle(builder, bundle)
        return
    builder.put_bundle(
        bundle, fetching=False, attempts=attempts, retry_at=decision.at, problem=event.problem
    )
    builder.log(f"{bundle.ref} could not be fetched: {event.problem}", "warning")


def _forget_bundle(builder: StepBuilder, bundle: Bundle) -> None:
    """Forget a bundle that could not be verified again, unless a task still needs it.

    A task that was accepted earlier may go on with it; a new task makes the agent fetch it again.
    """
    if _tasks_of(builder, bundle.sha256, ALIVE | WAITING):
        builder.put_bundle(bundle, fetching=False, verified_at=None, attempts=0)
    else:
        del builder.state.bundles[bundle.sha256]


def _tasks_of(builder: StepBuilder, sha256: str, phases: frozenset[Phase]) -> list[TaskState]:
    return [
        task
        for _, task in sorted(builder.state.tasks.items())
        if task.phase in phases and task.record.grant.sha256 == sha256
    ]
