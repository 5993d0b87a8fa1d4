"""Fetches the bundles of granted tasks and accepts the tasks whose bundle is verified."""

from __future__ import annotations

from axiom_client.decide import commands as c
from axiom_client.decide.fit import accept
from axiom_client.decide.model import Bundle
from axiom_client.decide.step_builder import StepBuilder

TRUST_SECONDS = 3600.0  # a bundle verified this long ago is verified anew: it may be withdrawn


def fetch_bundles(builder: StepBuilder) -> None:
    state = builder.state
    if state.stop is not None:
        return
    for _, task in sorted(state.tasks.items()):
        grant = task.record.grant
        if task.phase != "granted" or (grant.device == "gpu" and not state.gpus_known):
            continue
        bundle = state.bundles.get(grant.sha256) or Bundle(
            experiment=grant.experiment, version=grant.version, sha256=grant.sha256
        )
        at = bundle.verified_at
        fresh = at is not None and state.now - at < TRUST_SECONDS
        if (fresh or task.record.accepted) and bundle.path and bundle.manifest is not None:
            accept(builder, task, bundle.manifest)
            continue
        if not bundle.fetching and bundle.retry_at <= state.now:
            builder.put_bundle(bundle, fetching=True)
            builder.do(
                c.FetchBundle(
                    experiment=grant.experiment,
                    version=grant.version,
                    sha256=grant.sha256,
                    accepted=task.record.accepted,
                )
            )
