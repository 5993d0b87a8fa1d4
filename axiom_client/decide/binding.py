"""Checks a grant against the signed metadata of its bundle.

The server can only choose among what staff signed: a version, parameter values within the declared
ranges, and a seed. It cannot add code, a path, an environment or a command line.
"""

from __future__ import annotations

from axiom_protocol.manifest import Manifest, ManifestError, Parameters
from axiom_protocol.messages import Grant

SEED_MAX = 2**53  # beyond it JSON readers disagree on the value


class GrantRefused(ValueError):
    """The grant asks for something that was not signed; the message says what."""


def bind(grant: Grant, manifest: Manifest) -> Parameters:
    """The parameters of a task: the signed defaults, with the values that the grant changes.

    manifest  from the verified bundle whose SHA-256 is the grant's

    Raises GrantRefused where the name is another bundle's, or a parameter or the seed is out of
    range.
    """
    if (grant.experiment, grant.version) != (manifest.name, manifest.version):
        raise GrantRefused(
            f"wrong software: granted as {grant.experiment}@{grant.version}, "
            f"signed as {manifest.ref}"
        )
    if isinstance(grant.seed, bool) or not 0 <= grant.seed <= SEED_MAX:
        raise GrantRefused(f"out of range: the seed {grant.seed!r} is not in 0 to 2^53")
    try:
        return manifest.resolve(grant.parameters)
    except ManifestError as error:
        raise GrantRefused(f"out of range: {error}") from None
