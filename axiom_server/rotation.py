"""Changing whom the root trusts: new keys for a role, or another threshold.

A change of the root is signed by the keys of the old root, and by those of the new where they
differ; every client that trusts the old follows to the new by itself.
"""

from __future__ import annotations

from collections.abc import Iterable

from securesystemslib.signer import Key
from tuf.api.metadata import Metadata, Root

from axiom_server.keys import Role
from axiom_server.metadata import ROOT_LIFE, BundlesError, Clock, utc_now


def propose_root(
    current: Metadata[Root],
    role: Role,
    new_keys: Iterable[Key],
    *,
    keep_old: bool = False,
    threshold: int | None = None,
    clock: Clock = utc_now,
) -> Metadata[Root]:
    """The unsigned root in which ``role`` has these keys.

    keep_old   the keys it has now stay trusted (to add one for a threshold above one)
    threshold  how many signatures the role needs from now on; as now, unless said

    Raises BundlesError when the role would have fewer keys than its threshold.
    """
    root = Root.from_dict(current.signed.to_dict())
    added = list(new_keys)
    if not keep_old:
        for keyid in list(root.roles[role].keyids):
            root.revoke_key(keyid, role)
    for key in added:
        root.add_key(key, role)
    root.roles[role].threshold = threshold or root.roles[role].threshold
    if not 1 <= root.roles[role].threshold <= len(root.roles[role].keyids):
        raise BundlesError(
            f"{role} would have {len(root.roles[role].keyids)} keys and need "
            f"{root.roles[role].threshold} signatures; add keys or lower the threshold"
        )
    root.version += 1
    root.expires = clock() + ROOT_LIFE
    return Metadata(root)
