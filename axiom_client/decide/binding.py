"""A workunit is bound to its bundle: a grant is work only if the signed metadata allows it.

What the server says chooses among what staff signed (which version, which values inside the
declared ranges, which seed) and adds nothing: no code, path, environment or command line.
"""

from __future__ import annotations

from axiom_protocol.manifest import Manifest, ManifestError, Parameters
from axiom_protocol.messages import Grant

SEED_MAX = 2**53  # beyond it JSON readers disagree on the value


class GrantRefused(ValueError):
    """The grant asks for what was not signed; the message says what."""


def bind(grant: Grant, manifest: Manifest) -> Parameters:
    """The parameters to run a grant with: the signed defaults, overlaid with the grant's values.

    manifest  of the verified bundle whose SHA-256 is the grant's

    Raises GrantRefused: another bundle's name, a parameter or a seed out of its range.
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
