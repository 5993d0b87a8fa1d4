"""Fetches the bundles of granted tasks and accepts the tasks whose bundle is verified."""

from __future__ import annotations

from axiom_client.decide import commands as c
from axiom_client.decide.fit import accept
from axiom_client.decide.model import Bundle, TaskState
from axiom_client.decide.step_builder import StepBuilder

# A bundle verified longer ago is verified again, since staff may have withdrawn it.
TRUST_SECONDS = 3600.0


def fetch_bundles(builder: StepBuilder) -> None:
    """Accept each granted task whose bundle is verified; fetch the bundles of the others."""
    state = builder.state
    if state.stop is not None:
        return
    for _, task in sorted(state.tasks.items()):
        wait_for_probe = task.record.grant.device == "gpu" and not state.gpus_known
        if task.phase == "granted" and not wait_for_probe:
            _accept_or_fetch(builder, task)


def _accept_or_fetch(builder: StepBuilder, task: TaskState) -> None:
    grant, now = task.record.grant, builder.state.now
    bundle = builder.state.bundles.get(grant.sha256) or Bundle(
        experiment=grant.experiment, version=grant.version, sha256=grant.sha256
    )
    trusted = task.record.accepted or _is_fresh(bundle, now)
    if trusted and bundle.path and bundle.manifest is not None:
        accept(builder, task, bundle.manifest)
    elif not bundle.fetching and bundle.retry_at <= now:
        builder.put_bundle(bundle, fetching=True)
        builder.do(
            c.FetchBundle(
                experiment=grant.experiment,
                version=grant.version,
                sha256=grant.sha256,
                accepted=task.record.accepted,
            )
        )


def _is_fresh(bundle: Bundle, now: float) -> bool:
    return bundle.verified_at is not None and now - bundle.verified_at < TRUST_SECONDS
