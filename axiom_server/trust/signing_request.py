"""Signing requests: sign changes of the metadata on another machine, which has the keys.

A request is a JSON file with the current metadata, the proposed metadata, and the sources that the
proposal adds. The machine with the keys lists all changes, refuses a proposal with changes that it
does not list, and adds its signatures. With a threshold above one, the next key holder signs the
file too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec
from msgspec import Struct
from securesystemslib.signer import Key, Signer
from tuf.api.exceptions import RepositoryError, UnsignedMetadataError
from tuf.api.metadata import Metadata, Root, TargetFile, Targets

from axiom_protocol.given_file import FileProblem, read_text
from axiom_protocol.manifest import Manifest
from axiom_protocol.release import RELEASES, ROOT_FIELD
from axiom_protocol.text import counted
from axiom_protocol.verdicts.study_design import StudyDesign
from axiom_server.errors import FileUnreadable
from axiom_server.trust.declaration import declared_changes, is_true_record
from axiom_server.trust.keys import KeysError
from axiom_server.trust.metadata import (
    VERSIONS_SKIPPED_MAX,
    BundlesError,
    check_signatures,
    root_fingerprint,
)
from axiom_server.trust.releases import changes as release_changes
from axiom_server.trust.releases import delegating, delegation
from axiom_server.trust.study_declaration import FIELD as STUDIES_FIELD
from axiom_server.trust.study_declaration import canonical, is_true_study, study_declarations
from axiom_server.trust.targets import WITHDRAWN_FIELD, read_bundle, withdrawn_in

T = TypeVar("T", Root, Targets)
REQUEST_BYTES_MAX = 64 * 1024 * 1024  # many times the size of all experiments of a project


class SigningRequest(Struct, frozen=True, kw_only=True, tag="axiom-signing-request"):
    """A request for signatures. Metadata are TUF's JSON texts; ``sources`` are keyed by SHA-256.

    ``studies`` holds the designs of the studies that are declared, as JSON, by name.
    ``tried`` holds the results of the dry runs, for the session log; it is not signed.
    """

    role: Literal["root", "targets", "client-releases"]
    root: str  # the root that is trusted now
    current: str  # the current signed metadata of the role; empty before the first release
    proposed: str  # the new metadata with the signatures so far
    sources: dict[str, str] = {}
    studies: dict[str, str] = {}
    tried: dict[str, dict[str, Any]] = {}

    def fingerprint(self) -> str:
        """Fingerprint of the trusted root, which the signer compares with a known one."""
        return root_fingerprint(self.trusted_root())

    def trusted_root(self) -> Metadata[Root]:
        """The root that is trusted now. Raises BundlesError."""
        return _parse(self.root, Root)

    def changes(self) -> list[str]:
        """The changes to sign, one line each, for the person who signs.

        Raises BundlesError when the proposal does not follow the current metadata, contains a
        change that these lines do not mention, or names a source that is not in the request.
        """
        root = self.trusted_root()
        check_signatures(root.signed, "root", root)
        if self.role == "root":
            return _root_changes(root.signed, _parse(self.proposed, Root).signed)
        if self.role == RELEASES:
            return self._release_changes(root.signed)
        current, proposed = _parse(self.current, Targets), _parse(self.proposed, Targets)
        check_signatures(root.signed, "targets", current)
        return [
            *_delegation_changes(root.signed, current.signed, proposed.signed),
            *_targets_changes(current.signed, proposed.signed, self.sources, self.studies),
        ]

    def _release_changes(self, root: Root) -> list[str]:
        current = _parse(self.current, Targets) if self.current else None
        if current is not None:
            check_signatures(delegating(root), RELEASES, current)
        return release_changes(current.signed if current else None, self.signed_targets().signed)

    def missing_signatures(self) -> int:
        """How many signatures the proposal still needs."""
        root, proposed = self.trusted_root().signed, self._proposed()
        trusted = delegating(root) if self.role == RELEASES else root
        wanted = [
            trusted.get_verification_result(self.role, proposed.signed_bytes, proposed.signatures)
        ]
        if isinstance(proposed.signed, Root):
            wanted.append(
                proposed.signed.get_verification_result(
                    "root", proposed.signed_bytes, proposed.signatures
                )
            )
        return max(max(0, found.threshold - len(found.signed)) for found in wanted)

    def signed_by(self, signers: Iterable[Signer]) -> SigningRequest:
        """The request with signatures added. Raises KeysError when none of the keys is trusted."""
        self.changes()
        proposed = self._proposed()
        trusted = set(self.trusted_keys())
        if isinstance(proposed.signed, Root):
            trusted |= set(proposed.signed.roles["root"].keyids)
        fitting = [signer for signer in signers if signer.public_key.keyid in trusted]
        if not fitting:
            raise KeysError(
                f"none of these keys is a {self.role} key of this project; "
                "give the folder that holds the right ones (--keys)"
            )
        for signer in fitting:
            try:
                proposed.sign(signer, append=True)
            except UnsignedMetadataError as error:
                raise KeysError(str(error.__cause__ or error)) from None
        return msgspec.structs.replace(self, proposed=proposed.to_bytes().decode())

    def trusted_keys(self) -> dict[str, Key]:
        """The keys that may sign the request, by id."""
        root = self.trusted_root().signed
        if self.role == RELEASES:
            named = delegation(root)
            return dict(named.keys) if named else {}
        return {keyid: root.keys[keyid] for keyid in root.roles[self.role].keyids}

    def signed_targets(self) -> Metadata[Targets]:
        """The proposed metadata, to be installed."""
        return _parse(self.proposed, Targets)

    def signed_root(self) -> Metadata[Root]:
        """The proposed metadata, to be installed."""
        return _parse(self.proposed, Root)

    def _proposed(self) -> Metadata[Root] | Metadata[Targets]:
        return self.signed_root() if self.role == "root" else self.signed_targets()


def request_targets(
    root: Metadata[Root],
    current: Metadata[Targets],
    proposed: Metadata[Targets],
    sources: Iterable[bytes],
    studies: Iterable[StudyDesign] = (),
) -> SigningRequest:
    """A request to sign targets metadata."""
    return SigningRequest(
        role="targets",
        root=_text(root),
        current=_text(current),
        proposed=_text(proposed),
        sources={hashlib.sha256(source).hexdigest(): source.decode() for source in sources},
        studies={design.name: canonical(design) for design in studies},
    )


def request_root(root: Metadata[Root], proposed: Metadata[Root]) -> SigningRequest:
    """A request to sign root metadata."""
    return SigningRequest(
        role="root", root=_text(root), current=_text(root), proposed=_text(proposed)
    )


def request_releases(
    root: Metadata[Root], current: Metadata[Targets] | None, proposed: Metadata[Targets]
) -> SigningRequest:
    """A request to sign releases of axiom-client. The archives stay where it is written."""
    return SigningRequest(
        role=RELEASES, root=_text(root), current=_text(current) if current else "",
        proposed=_text(proposed),
    )  # fmt: skip


def read_request(path: Path) -> SigningRequest:
    """Read a request file. Raises FileUnreadable."""
    try:
        return msgspec.json.decode(read_text(path, REQUEST_BYTES_MAX), type=SigningRequest)
    except FileProblem as problem:
        raise FileUnreadable(str(problem)) from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise FileUnreadable(f"{path} is not a signing request: {error}") from None


def _targets_changes(
    old: Targets, new: Targets, sources: dict[str, str], studies: dict[str, str]
) -> list[str]:
    lines = []
    for path, file in sorted(new.targets.items()):
        if old.targets.get(path) == file:
            continue
        if path in old.targets:
            raise BundlesError(
                f"the request would change {path}, but a published version must not change"
            )
        sha256 = file.hashes["sha256"]
        source = sources.get(sha256, "").encode()
        plain = TargetFile.from_data(path, source, ["sha256"])
        if (file.length, file.hashes) != (plain.length, plain.hashes):
            raise BundlesError(
                f"the source of {path} is not in the request; write the request again"
            )
        published = read_bundle(source)
        if f"{published.manifest.ref}.py" != path:
            raise BundlesError(f"{path} contains {published.manifest.ref}; write the request again")
        lines.append(f"publish {published.manifest.ref} ({file.length} bytes, sha256 {sha256})")
        lines += [f"  {change}" for change in _declared_changes(old, file, published.manifest)]
    gone = sorted(withdrawn_in(new).keys() - withdrawn_in(old).keys())
    lines += [f"withdraw {ref}" for ref in gone]
    lines += _declared_studies(old, new, studies)
    _check_nothing_else(old, new, {f"{ref}.py" for ref in gone})
    if skipped := new.version - old.version - 1:
        versions = counted(skipped, "version")
        lines.append(f"skip {versions}, which may have been signed before the project was restored")
    return [*lines, f"valid until {new.expires:%Y-%m-%d}"]


def _declared_changes(old: Targets, file: TargetFile, manifest: Manifest) -> list[str]:
    """How the claims differ from the version before. Raises BundlesError on a false record."""
    if not file.unrecognized_fields:
        return []  # written by axiom-server 0.1.0
    if not is_true_record(old, file, manifest):
        raise BundlesError(
            f"the declaration of {manifest.ref} does not match its source; write the request again"
        )
    return declared_changes(file)


def _declared_studies(old: Targets, new: Targets, studies: dict[str, str]) -> list[str]:
    """What new studies claim, one line a finding. Raises BundlesError on a false record."""
    lines, before = [], study_declarations(old)
    for name, record in sorted(study_declarations(new).items()):
        if before.get(name) == record:
            continue
        if name in before:
            raise BundlesError(
                f"the request would change the study {name}, but a declared study must not change"
            )
        try:
            design = msgspec.json.decode(studies.get(name, ""), type=StudyDesign)
        except msgspec.DecodeError:
            raise BundlesError(
                f"the study {name} is not in the request; write the request again"
            ) from None
        if not is_true_study(old, name, record, design):
            raise BundlesError(
                f"the declaration of the study {name} is not that of its file; "
                "write the request again"
            )
        lines.append(f"declare the study {name} over {record['experiment']} ({record['sha256']})")
        lines += [f"  {finding}: {claimed}" for finding, claimed in record["criteria"].items()]
    return lines


def _check_nothing_else(old: Targets, new: Targets, withdrawn: set[str]) -> None:
    """Raise BundlesError when the proposal contains any other change."""
    if (
        not old.version < new.version <= old.version + VERSIONS_SKIPPED_MAX
        or old.targets.keys() - new.targets.keys() != withdrawn
        or not withdrawn_in(old).items() <= withdrawn_in(new).items()
        or study_declarations(old).keys() - study_declarations(new).keys()
        or new.unrecognized_fields.keys() - {WITHDRAWN_FIELD, STUDIES_FIELD}
    ):
        raise BundlesError("the request does not follow the current metadata; write it again")


def _delegation_changes(root: Root, old: Targets, new: Targets) -> list[str]:
    """Whether releases of axiom-client are delegated. Raises BundlesError for other delegations."""
    if new.delegations == old.delegations:
        return []
    named = delegation(root)
    if new.delegations is None or named is None or new.delegations != named:
        raise BundlesError(
            "the request delegates to keys that the root does not name; write it again"
        )
    return [f"let the {RELEASES} keys that the root names sign releases of axiom-client"]


def _releases_keys(old: Root, new: Root) -> list[str]:
    """Changes of the keys that the root names for releases. Raises BundlesError."""
    rest = [dict(root.unrecognized_fields) for root in (old, new)]
    before, after = (fields.pop(ROOT_FIELD, None) for fields in rest)
    if rest[0] != rest[1] or (before is not None and after is None):
        raise BundlesError("the request does not follow the trusted root; write it again")
    if before == after:
        return []
    known, named = delegation(old), delegation(new)
    assert named is not None
    assert named.roles is not None
    lines = [
        f"trust the {RELEASES} key {keyid} ({key.scheme} {key.keyval['public']}): it decides which "
        "axiom-client runs on hosts that update themselves, outside of the tasks' sandbox"
        for keyid, key in named.keys.items()
        if known is None or keyid not in known.keys
    ]
    gone = known.keys.keys() - named.keys.keys() if known else set()
    lines += [f"distrust the {RELEASES} key {keyid}" for keyid in sorted(gone)]
    return [*lines, f"require {counted(named.roles[RELEASES].threshold, f'{RELEASES} signature')}"]


def _root_changes(old: Root, new: Root) -> list[str]:
    same_keys = all(new.keys.get(keyid, key) == key for keyid, key in old.keys.items())
    if new.version != old.version + 1 or not new.consistent_snapshot or not same_keys:
        raise BundlesError("the request does not follow the trusted root; write it again")
    lines = []
    for role in sorted(new.roles):
        before, after = old.roles[role], new.roles[role]
        for keyid in after.keyids:
            if keyid not in before.keyids:
                key = new.keys[keyid]
                lines.append(f"trust the {role} key {keyid} ({key.scheme} {key.keyval['public']})")
        lines += [f"distrust the {role} key {k}" for k in before.keyids if k not in after.keyids]
        if before.threshold != after.threshold:
            lines.append(f"require {after.threshold} {role} signatures (was {before.threshold})")
    lines += _releases_keys(old, new)
    return [*lines, f"valid until {new.expires:%Y-%m-%d}"]


def _text(metadata: Metadata[T]) -> str:
    return metadata.to_bytes().decode()


def _parse(text: str, kind: type[T]) -> Metadata[T]:
    try:
        metadata = Metadata[T].from_bytes(text.encode())
    except RepositoryError as error:
        raise BundlesError(f"the request is damaged: {error}; write it again") from None
    if not isinstance(metadata.signed, kind):
        raise BundlesError(
            f"the request is damaged: it has no {kind.type} metadata; write it again"
        )
    return metadata
