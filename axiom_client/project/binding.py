"""A workunit is bound to its bundle: PURE. A grant is work only if the signed metadata allows it.

What the server says chooses among what staff signed (which version, which values inside the
declared ranges, which seed) and adds nothing: no code, path, environment or command line.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from axiom_client.project.refusal import BundleRefused
from axiom_protocol.manifest import Manifest, ManifestError, Parameters, Resources
from axiom_protocol.messages import Grant

SEED_MAX = 2**53  # beyond it JSON readers disagree on the value


@dataclass(frozen=True, kw_only=True)
class BoundWork:
    """What a task may be run with. All but seed, budget and the choice of values is signed."""

    experiment: str
    version: str
    sha256: str
    environment: Literal["numpy", "torch"]
    resources: Resources
    parameters: Parameters  # complete: the defaults overlaid with the grant's values
    seed: int
    budget_seconds: float


def bind(grant: Grant, manifest: Manifest, signed_sha256: str) -> BoundWork:
    """The work that a grant asks for, as far as the signed metadata allows it.

    manifest, signed_sha256  of the verified bundle that the grant names

    Raises BundleRefused: wrong software (another bundle), out of range (parameters, seed, budget).
    """
    if (grant.experiment, grant.version) != (manifest.name, manifest.version):
        raise BundleRefused(
            "wrong software",
            f"the grant is for {grant.experiment}@{grant.version}, the bundle is {manifest.ref}",
        )
    if grant.sha256 != signed_sha256:
        raise BundleRefused(
            "wrong software", f"{manifest.ref} was not signed with the hash {grant.sha256}"
        )
    try:
        parameters = manifest.resolve(grant.parameters)
    except ManifestError as error:
        raise BundleRefused("out of range", str(error)) from None
    if isinstance(grant.seed, bool) or not 0 <= grant.seed <= SEED_MAX:
        raise BundleRefused("out of range", f"the seed {grant.seed!r} is not in 0 to 2^53")
    return BoundWork(
        experiment=manifest.name,
        version=manifest.version,
        sha256=signed_sha256,
        environment=manifest.environment,
        resources=manifest.resources,
        parameters=parameters,
        seed=grant.seed,
        budget_seconds=grant.budget_seconds,
    )
