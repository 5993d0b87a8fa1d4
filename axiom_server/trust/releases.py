"""The role ``client-releases``: which releases of axiom-client hosts may update themselves to.

What this role signs runs outside of the tasks' sandbox. So its keys are named in the signed root,
by a field of its own, and the targets delegate to exactly these keys: hosts refuse a delegation
that the root does not name. Whoever has the targets keys, which may be on the server, cannot
release an agent.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

import msgspec
from securesystemslib.signer import Key
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    Root,
    TargetFile,
    Targets,
)

from axiom_protocol.release import (
    RELEASE_FIELD,
    RELEASES,
    ROOT_FIELD,
    ReleaseFacts,
    parse_version,
)
from axiom_server.errors import NotFound, ReleaseMalformed
from axiom_server.trust.metadata import ROOT_LIFETIME, BundlesError, Clock, utc_now

PATHS = "axiom-client-*"
RELEASES_LIFETIME = timedelta(days=180)


# --- the keys, named by the root ------------------------------------------------------------------


def name_keys(
    current: Metadata[Root], keys: Iterable[Key], threshold: int, clock: Clock = utc_now
) -> Metadata[Root]:
    """An unsigned root that names these keys, and no others, for the role. Raises BundlesError."""
    root, named = copy.deepcopy(current.signed), {key.keyid: key for key in keys}
    if not 1 <= threshold <= len(named):
        raise BundlesError(
            f"a threshold of {threshold} for {RELEASES} needs as many keys; there are {len(named)}"
        )
    others = {keyid for role in root.roles.values() for keyid in role.keyids}
    if shared := sorted(others & named.keys()):
        raise BundlesError(
            f"the key {shared[0]} has another role; {RELEASES} needs keys of its own"
        )
    root.unrecognized_fields[ROOT_FIELD] = {
        "keyids": sorted(named),
        "threshold": threshold,
        "keys": {keyid: key.to_dict() for keyid, key in sorted(named.items())},
    }
    root.version += 1
    root.expires = clock() + ROOT_LIFETIME
    return Metadata(root)


def delegation(root: Root) -> Delegations | None:
    """The delegation that the root names; None where it names none. Raises BundlesError."""
    field = root.unrecognized_fields.get(ROOT_FIELD)
    if field is None:
        return None
    try:
        named = copy.deepcopy(field)
        keys = {keyid: Key.from_dict(keyid, key) for keyid, key in named["keys"].items()}
        keyids, threshold = list(named["keyids"]), int(named["threshold"])
        role = DelegatedRole(RELEASES, keyids, threshold, terminating=True, paths=[PATHS])
    except (KeyError, TypeError, ValueError, AttributeError):
        raise BundlesError(
            f"the root's field {ROOT_FIELD} is damaged; restore the root from a backup"
        ) from None
    return Delegations(keys, {RELEASES: role})


def delegating(root: Root) -> Targets:
    """Targets with nothing but that delegation, to check signatures of the role with.

    Raises BundlesError where the root names no keys.
    """
    named = delegation(root)
    if named is None:
        raise BundlesError(
            "no keys may sign releases of axiom-client yet: run axiom-server release trust"
        )
    return Targets(delegations=named)


# --- the releases ---------------------------------------------------------------------------------


def target_path(facts: ReleaseFacts) -> str:
    """The archive's name as a target."""
    python = f"py{facts.python_from}" + ("-only" if facts.python_below else "")
    return f"axiom-client-{facts.version}-{facts.system}-{python}.zip"


def add_release(targets: Targets, facts: ReleaseFacts, archive: bytes) -> bool:
    """Add an archive; whether it is new. Raises ReleaseMalformed."""
    path = target_path(facts)
    file = TargetFile.from_data(path, archive, ["sha256"])
    file.unrecognized_fields["custom"] = {RELEASE_FIELD: msgspec.to_builtins(facts)}
    known = targets.targets.get(path)
    if known is not None:
        if known != file:
            raise ReleaseMalformed(
                f"{path} is released with other contents, and a release never changes; "
                "raise the version"
            )
        return False
    newest = max((version_parts(f.version) for f in released(targets).values()), default=())
    if version_parts(facts.version) < newest:
        raise ReleaseMalformed(
            f"axiom-client {'.'.join(map(str, newest))} is released already, "
            f"and no host goes back to {facts.version}; raise the version"
        )
    targets.targets[path] = file
    return True


def withdraw_release(targets: Targets, version: str) -> None:
    """Withdraw all archives of a version. Hosts do not go to it any more. Raises NotFound."""
    paths = [path for path, facts in released(targets).items() if facts.version == version]
    if not paths:
        raise NotFound(
            f"axiom-client {version} is not released; axiom-server release list shows what is"
        )
    for path in paths:
        del targets.targets[path]


def released(targets: Targets) -> dict[str, ReleaseFacts]:
    """The facts of all archives, by path. Raises BundlesError."""
    return {path: facts_of(file) for path, file in sorted(targets.targets.items())}


def facts_of(file: TargetFile) -> ReleaseFacts:
    """The facts of one archive. Raises BundlesError."""
    custom: Any = file.unrecognized_fields.get("custom", {})
    try:
        facts = msgspec.convert(custom[RELEASE_FIELD], ReleaseFacts)
    except (msgspec.ValidationError, KeyError, TypeError):
        raise BundlesError(f"{file.path} has no facts of a release") from None
    if target_path(facts) != file.path:
        raise BundlesError(f"{file.path} has the facts of {target_path(facts)}")
    return facts


def version_parts(version: str) -> tuple[int, ...]:
    """The numbers of a version. Raises ReleaseMalformed."""
    found = parse_version(version)
    if found is None:
        raise ReleaseMalformed(f"{version!r} is no version of a release, such as 0.3.0")
    return found


def new_releases(now: datetime) -> Targets:
    """Metadata without any release."""
    return Targets(version=1, expires=now + RELEASES_LIFETIME)


def changes(old: Targets | None, new: Targets) -> list[str]:
    """What a proposal changes, one line each. Raises BundlesError for anything else."""
    before = old.targets if old is not None else {}
    lines = []
    for path, file in sorted(new.targets.items()):
        facts = facts_of(file)
        if before.get(path) == file:
            continue
        if path in before:
            raise BundlesError(f"the request would change {path}, but a release must not change")
        python = facts.python_from + (f" to {facts.python_below}" if facts.python_below else "")
        lines.append(
            f"release axiom-client {facts.version} for {facts.system}, Python {python} "
            f"({file.length} bytes, sha256 {file.hashes['sha256']})"
        )
    lines += [f"withdraw {path}" for path in sorted(before.keys() - new.targets.keys())]
    follows = old is None or new.version > old.version
    if not follows or new.delegations is not None or new.unrecognized_fields:
        raise BundlesError("the request does not follow the current metadata; write it again")
    return [*lines, f"valid until {new.expires:%Y-%m-%d}"]
