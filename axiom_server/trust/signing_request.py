"""Signing on another machine: a request travels to the keys and comes back with signatures.

A request is one JSON file: what is signed now, what is proposed, and the sources that the proposal
adds. The machine with the keys checks that the proposal is what it says (and nothing besides),
shows it, and adds its signatures; with a threshold above one the file goes on to the next holder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec
from msgspec import Struct
from securesystemslib.signer import Signer
from tuf.api.exceptions import RepositoryError, UnsignedMetadataError
from tuf.api.metadata import Metadata, Root, TargetFile, Targets

from axiom_server.errors import FileUnreadable
from axiom_server.trust.keys import KeysError
from axiom_server.trust.metadata import BundlesError, check_signatures, root_fingerprint
from axiom_server.trust.targets import WITHDRAWN_FIELD, read_bundle, withdrawn_in

T = TypeVar("T", Root, Targets)
REQUEST_BYTES_MAX = 64 * 1024 * 1024  # a project's whole library of scripts, many times over


class SigningRequest(Struct, frozen=True, kw_only=True, tag="axiom-signing-request"):
    """What is asked to be signed. Metadata are TUF's JSON texts; ``sources`` by their SHA-256.

    ``tried`` is what their dry runs showed, for the session log; no signature covers it.
    """

    role: Literal["root", "targets"]
    root: str  # the root that is trusted now
    current: str  # the role's metadata as it is signed now
    proposed: str  # with the signatures that it has so far
    sources: dict[str, str] = {}
    tried: dict[str, dict[str, Any]] = {}

    def fingerprint(self) -> str:
        """Of the root that is trusted now: the signer compares it with the one they know."""
        return root_fingerprint(self.trusted_root())

    def trusted_root(self) -> Metadata[Root]:
        """The root that is trusted now. Raises BundlesError."""
        return _parse(self.root, Root)

    def changes(self) -> list[str]:
        """What signing would change, one line each, for the person who signs.

        Raises BundlesError when the proposal does not follow what is signed now, does anything that
        these lines do not say, or names a source that is not in the request.
        """
        root = self.trusted_root()
        check_signatures(root.signed, "root", root)
        if self.role == "root":
            return _root_changes(root.signed, _parse(self.proposed, Root).signed)
        current, proposed = _parse(self.current, Targets), _parse(self.proposed, Targets)
        check_signatures(root.signed, "targets", current)
        return _targets_changes(current.signed, proposed.signed, self.sources)

    def missing_signatures(self) -> int:
        """How many signatures the proposal still needs from those who are trusted now."""
        root, proposed = self.trusted_root().signed, self._proposed()
        wanted = [
            root.get_verification_result(self.role, proposed.signed_bytes, proposed.signatures)
        ]
        if isinstance(proposed.signed, Root):
            wanted.append(
                proposed.signed.get_verification_result(
                    "root", proposed.signed_bytes, proposed.signatures
                )
            )
        return max(max(0, found.threshold - len(found.signed)) for found in wanted)

    def signed_by(self, signers: Iterable[Signer]) -> SigningRequest:
        """The request with these signatures added. Raises KeysError: none of the keys counts."""
        self.changes()
        proposed = self._proposed()
        trusted = set(self.trusted_root().signed.roles[self.role].keyids)
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

    def signed_targets(self) -> Metadata[Targets]:
        """The proposal, to be installed."""
        return _parse(self.proposed, Targets)

    def signed_root(self) -> Metadata[Root]:
        """The proposal, to be installed."""
        return _parse(self.proposed, Root)

    def _proposed(self) -> Metadata[Root] | Metadata[Targets]:
        return self.signed_root() if self.role == "root" else self.signed_targets()


def request_targets(
    root: Metadata[Root],
    current: Metadata[Targets],
    proposed: Metadata[Targets],
    sources: Iterable[bytes],
) -> SigningRequest:
    """Ask the holders of the targets keys to sign."""
    return SigningRequest(
        role="targets",
        root=_text(root),
        current=_text(current),
        proposed=_text(proposed),
        sources={hashlib.sha256(source).hexdigest(): source.decode() for source in sources},
    )


def request_root(root: Metadata[Root], proposed: Metadata[Root]) -> SigningRequest:
    """Ask the holders of the root keys to sign."""
    return SigningRequest(
        role="root", root=_text(root), current=_text(root), proposed=_text(proposed)
    )


def read_request(path: Path) -> SigningRequest:
    """Read a request's file. Raises FileUnreadable."""
    try:
        if path.stat().st_size > REQUEST_BYTES_MAX:
            raise FileUnreadable(f"{path} is too large to be a signing request")
        return msgspec.json.decode(path.read_bytes(), type=SigningRequest)
    except OSError as error:
        raise FileUnreadable(f"cannot read {path}: {error.strerror}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FileUnreadable(f"{path} is not a signing request: {error}") from None


def _targets_changes(old: Targets, new: Targets, sources: dict[str, str]) -> list[str]:
    lines = []
    for path, file in sorted(new.targets.items()):
        if old.targets.get(path) == file:
            continue
        if path in old.targets:
            raise BundlesError(f"the request would change {path}, and a published version is final")
        sha256 = file.hashes["sha256"]
        source = sources.get(sha256, "").encode()
        if file != TargetFile.from_data(path, source, ["sha256"]):
            raise BundlesError(f"the source of {path} is not in the request; make it again")
        published = read_bundle(source)
        if f"{published.manifest.ref}.py" != path:
            raise BundlesError(f"{path} calls itself {published.manifest.ref}; make it again")
        lines.append(f"publish {published.manifest.ref} ({file.length} bytes, sha256 {sha256})")
    gone = sorted(withdrawn_in(new).keys() - withdrawn_in(old).keys())
    lines += [f"withdraw {ref}" for ref in gone]
    _check_nothing_else(old, new, {f"{ref}.py" for ref in gone})
    return [*lines, f"hold until {new.expires:%Y-%m-%d}"]


def _check_nothing_else(old: Targets, new: Targets, withdrawn: set[str]) -> None:
    """Raise BundlesError when the proposal differs in anything that the lines do not say."""
    if (
        new.version != old.version + 1
        or new.delegations is not None
        or old.targets.keys() - new.targets.keys() != withdrawn
        or not withdrawn_in(old).items() <= withdrawn_in(new).items()
        or new.unrecognized_fields.keys() - {WITHDRAWN_FIELD}
    ):
        raise BundlesError("the request does not follow what is signed now; make it again")


def _root_changes(old: Root, new: Root) -> list[str]:
    same_keys = all(new.keys.get(keyid, key) == key for keyid, key in old.keys.items())
    if new.version != old.version + 1 or not new.consistent_snapshot or not same_keys:
        raise BundlesError("the request does not follow the trusted root; make it again")
    lines = []
    for role in sorted(new.roles):
        before, after = old.roles[role], new.roles[role]
        for keyid in after.keyids:
            if keyid not in before.keyids:
                key = new.keys[keyid]
                lines.append(f"trust the {role} key {keyid} ({key.scheme} {key.keyval['public']})")
        lines += [f"distrust the {role} key {k}" for k in before.keyids if k not in after.keyids]
        if before.threshold != after.threshold:
            lines.append(f"ask for {after.threshold} {role} signatures (was {before.threshold})")
    return [*lines, f"hold until {new.expires:%Y-%m-%d}"]


def _text(metadata: Metadata[T]) -> str:
    return metadata.to_bytes().decode()


def _parse(text: str, kind: type[T]) -> Metadata[T]:
    try:
        metadata = Metadata[T].from_bytes(text.encode())
    except RepositoryError as error:
        raise BundlesError(f"the request is damaged: {error}; make it again") from None
    if not isinstance(metadata.signed, kind):
        raise BundlesError(f"the request is damaged: no {kind.type} metadata where it should be")
    return metadata
