"""Targets metadata: add and withdraw versions, and list them.

These functions only work on TUF's targets metadata; they read no file, clock or key.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from tuf.api.metadata import TargetFile, Targets

from axiom_protocol.manifest import SCRIPT_BYTES_MAX, Manifest, ManifestError, read_manifest
from axiom_server.errors import ExperimentMalformed, ExperimentUnknown
from axiom_server.trust.declaration import changes, criteria, declaration_of

#: Field of the signed targets metadata with the withdrawn versions: {"name@version": sha256}. Other
#: TUF clients ignore it; ours use it to say "withdrawn" instead of "unknown".
WITHDRAWN_FIELD = "x-axiom-withdrawn"


@dataclass(frozen=True, kw_only=True)
class Published:
    """One signed version of an experiment. ``length`` is in bytes."""

    name: str
    version: str
    sha256: str
    length: int
    manifest: Manifest


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """One version in the targets metadata."""

    name: str
    version: str
    sha256: str
    length: int  # bytes; 0 when withdrawn
    withdrawn: bool


def add(targets: Targets, source: bytes) -> Published:
    """Add a source; adding it again changes nothing. Raises ExperimentMalformed."""
    published = read_bundle(source)
    ref = published.manifest.ref
    if ref in withdrawn_in(targets):
        raise ExperimentMalformed(
            f"{ref} was withdrawn, which is final; raise the version in its metadata"
        )
    path = f"{ref}.py"
    existing = targets.targets.get(path)
    if existing is not None and existing.hashes["sha256"] != published.sha256:
        changed = describe_changed_criteria(existing, published.manifest)
        raise ExperimentMalformed(
            f"{ref} is published with other contents{changed}, "
            "and a published version never changes; "
            "raise the version in its metadata and publish that"
        )
    if existing is None:
        targets.targets[path] = TargetFile.from_data(path, source, ["sha256"])
    return published


def describe_changed_criteria(existing: TargetFile, manifest: Manifest) -> str:
    """Which criteria of a published version the manifest would change, in words, or ""."""
    record = declaration_of(existing)
    changed = changes(record["criteria"], criteria(manifest)) if record else []
    return f" (it changes the criterion of {'; '.join(changed)})" if changed else ""


def withdraw(targets: Targets, ref: str) -> None:
    """Withdraw a version; doing so again changes nothing. Raises ExperimentUnknown."""
    gone = withdrawn_in(targets)
    if ref not in gone:
        file = find_target(targets, ref)
        del targets.targets[file.path]
        gone[ref] = file.hashes["sha256"]
        targets.unrecognized_fields[WITHDRAWN_FIELD] = gone


def find_target(targets: Targets, ref: str) -> TargetFile:
    """The entry of a version that may run. Raises ExperimentUnknown."""
    file = targets.targets.get(f"{ref}.py")
    if file is None:
        why = "was withdrawn" if ref in withdrawn_in(targets) else "was never published"
        raise ExperimentUnknown(f"{ref} {why}; axiom-server experiments lists the versions")
    return file


def listing(targets: Targets) -> list[Bundle]:
    """All published and withdrawn versions, sorted by name and version."""
    found = [
        _bundle(path.removesuffix(".py"), file.hashes["sha256"], file.length, False)
        for path, file in targets.targets.items()
    ]
    found += [_bundle(ref, sha256, 0, True) for ref, sha256 in withdrawn_in(targets).items()]
    return sorted(found, key=lambda b: (b.name, [int(part) for part in b.version.split(".")]))


def read_bundle(source: bytes) -> Published:
    """Check an experiment's source without running it. Raises ManifestError."""
    if len(source) > SCRIPT_BYTES_MAX:
        raise ManifestError(f"the script is {len(source)} bytes; at most {SCRIPT_BYTES_MAX}")
    try:
        text = source.decode()
        manifest = read_manifest(text)
        compile(text, f"{manifest.name}.py", "exec")
    except UnicodeDecodeError:
        raise ManifestError("the script is not UTF-8 text; save it as UTF-8") from None
    except (SyntaxError, ValueError, RecursionError) as error:
        if isinstance(error, ManifestError):
            raise
        raise ManifestError(f"the script does not compile: {error}") from None
    return Published(
        name=manifest.name,
        version=manifest.version,
        sha256=hashlib.sha256(source).hexdigest(),
        length=len(source),
        manifest=manifest,
    )


def withdrawn_in(targets: Targets) -> dict[str, str]:
    """Withdrawn versions: ``name@version`` -> sha256."""
    return dict(targets.unrecognized_fields.get(WITHDRAWN_FIELD, {}))


def _bundle(ref: str, sha256: str, length: int, withdrawn: bool) -> Bundle:
    name, _, version = ref.partition("@")
    return Bundle(name=name, version=version, sha256=sha256, length=length, withdrawn=withdrawn)
