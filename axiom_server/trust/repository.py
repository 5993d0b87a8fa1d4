"""The project's bundles: a TUF repository on disk that any web server can serve.

DIR/bundles/metadata holds the signed metadata, DIR/bundles/targets the experiments as
``<sha256>.<name>@<version>.py``. Only the targets key, which staff hold, decides which experiments
may run; the server's keys (snapshot, timestamp) only certify which targets are the newest. The
format and the rules are those of The Update Framework's specification 1.0.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, Targets, Timestamp

from axiom_protocol.durable_file import replace_file
from axiom_protocol.release import RELEASES, ReleaseFacts
from axiom_protocol.verdicts.study_design import StudyDesign
from axiom_server.trust.declaration import declarations, declare
from axiom_server.trust.keys import ROLES, SERVER_ROLES, Keys, Role, load_keys
from axiom_server.trust.metadata import (
    RESIGN_AFTER,
    ROOT_LIFETIME,
    SNAPSHOT_LIFETIME,
    TARGETS_LIFETIME,
    TIMESTAMP_LIFETIME,
    BundlesError,
    Clock,
    MetadataFolder,
    check_root,
    check_signatures,
    root_fingerprint,
    sign,
    utc_now,
    write_lock,
)
from axiom_server.trust.release_archive import Archive
from axiom_server.trust.releases import (
    RELEASES_LIFETIME,
    add_release,
    delegating,
    delegation,
    new_releases,
    released,
    target_path,
    withdraw_release,
)
from axiom_server.trust.releases import changes as release_changes
from axiom_server.trust.study_declaration import declare_study, study_declarations
from axiom_server.trust.targets import Bundle, Published, add, find_target, listing, read_bundle
from axiom_server.trust.targets import withdraw as withdraw_from

TARGETS_META = "targets.json"  # the snapshot's entry of the targets

__all__ = ["Bundle", "BundlesError", "Proposal", "Published", "Repository", "read_bundle"]


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """A change to sign: ``targets`` is the unsigned metadata, or None if nothing changes."""

    published: tuple[Published, ...]
    targets: Metadata[Targets] | None


class Repository:
    """The bundles in one folder, DIR/bundles. The server's keys are in DIR/keys."""

    def __init__(
        self, folder: Path, *, keys_dir: Path | None = None, clock: Clock = utc_now
    ) -> None:
        self.folder = folder
        self.keys_dir = keys_dir or folder.parent / "keys"
        self.metadata = MetadataFolder(folder / "metadata")
        self._clock = clock

    # Reading

    def fingerprint(self) -> str:
        """The fingerprint of the newest root, which volunteers compare when they attach."""
        return root_fingerprint(self.metadata.root())

    def bundles(self) -> list[Bundle]:
        """All published and withdrawn versions, sorted by name and version."""
        return listing(self.metadata.targets().signed)

    def declarations(self) -> dict[str, dict[str, Any]]:
        """The signed records of what versions claim, by name@version."""
        return declarations(self.metadata.targets().signed)

    def studies(self) -> dict[str, dict[str, Any]]:
        """The signed records of what studies claim, by name."""
        return study_declarations(self.metadata.targets().signed)

    def source(self, name: str, version: str) -> bytes:
        """The source of a published version. Raises ExperimentUnknown."""
        file = find_target(self.metadata.targets().signed, f"{name}@{version}")
        return self._path(file.hashes["sha256"], file.path).read_bytes()

    def expiries(self) -> dict[Role, datetime]:
        """When each role's metadata expires; after that, clients refuse the bundles."""
        read = self.metadata
        return {
            "root": read.root().signed.expires,
            "targets": read.targets().signed.expires,
            "snapshot": read.snapshot().signed.expires,
            "timestamp": read.timestamp().signed.expires,
        }

    def releases(self) -> dict[str, ReleaseFacts]:
        """The facts of all releases of axiom-client, by their archives' names."""
        metadata = self.metadata.releases()
        return released(metadata.signed) if metadata else {}

    # Changing

    def create(self, keys: Keys, thresholds: Mapping[Role, int] | None = None) -> None:
        """Write the first root, targets, snapshot and timestamp, signed with every key of ``keys``.

        thresholds  how many signatures a role needs (default: one)

        Raises BundlesError when bundles exist, or a role has fewer keys than its threshold.
        """
        if self.metadata.exists:
            raise BundlesError(f"{self.folder} holds bundles already; nothing was changed")
        with write_lock(self.folder):
            root = Metadata(Root(version=1, expires=self._clock() + ROOT_LIFETIME))
            for role in ROLES:
                signers, threshold = keys.of(role), (thresholds or {}).get(role, 1)
                if not 1 <= threshold <= len(signers):
                    raise BundlesError(
                        f"a threshold of {threshold} for {role} needs as many keys; "
                        f"there are {len(signers)}"
                    )
                for signer in signers:
                    root.signed.add_key(signer.public_key, role)
                root.signed.roles[role].threshold = threshold
            sign(root, keys.of("root"))
            self.metadata.write_root(root)
            targets = Metadata(Targets(version=1, expires=self._clock() + TARGETS_LIFETIME))
            sign(targets, keys.of("targets"))
            (self.folder / "targets").mkdir(exist_ok=True)
            self._sign_snapshot({TARGETS_META: self.metadata.write_targets(targets)}, keys, None)

    def publish(self, source: bytes, keys: Keys) -> Published:
        """Sign one experiment and publish it. Publishing the same source again changes nothing.

        Raises ManifestError for an invalid experiment, ExperimentMalformed when the version exists
        with another source or was withdrawn, KeysError when the targets key is not in ``keys``.
        """
        return self._change(keys, publish=[source])[0]

    def withdraw(self, name: str, version: str, keys: Keys) -> None:
        """Withdraw a version, so that it may no longer run. Repeating it changes nothing."""
        self._change(keys, withdraw=[f"{name}@{version}"])

    def extend(self, keys: Keys) -> None:
        """Sign the same targets again with a new expiry date."""
        self._change(keys, extend=True)

    def propose(
        self,
        *,
        publish: Iterable[bytes] = (),
        withdraw: Iterable[str] = (),
        studies: Iterable[tuple[StudyDesign, str]] = (),
        extend: bool = False,
    ) -> Proposal:
        """The unsigned targets that would publish these sources, withdraw these name@version, and
        declare these studies, each over a name@version.

        Raises like ``publish``, ``withdraw`` and ``declare_study``. Changes nothing on disk.
        """
        targets = self.metadata.targets()
        before, known = targets.signed.to_dict(), set(targets.signed.targets)
        published = tuple(add(targets.signed, source) for source in publish)
        for new in published:
            if f"{new.manifest.ref}.py" not in known:
                declare(targets.signed, new.manifest, self._clock())
        for ref in withdraw:
            withdraw_from(targets.signed, ref)
        for design, ref in studies:
            declare_study(targets.signed, design, ref, self._clock())
        if targets.signed.to_dict() == before and not extend:
            return Proposal(published=published, targets=None)
        targets.signed.version = self.metadata.next_targets_version()
        targets.signed.expires = self._clock() + TARGETS_LIFETIME
        targets.signatures.clear()
        return Proposal(published=published, targets=targets)

    def install_targets(self, targets: Metadata[Targets], sources: Iterable[bytes]) -> None:
        """Put signed targets into effect, with the sources they add.

        Raises BundlesError when they do not follow the current ones, or a signature is missing.
        """
        with write_lock(self.folder):
            self._install_targets(targets, sources, self._online_keys(None))

    def propose_delegation(self) -> Metadata[Targets] | None:
        """The unsigned targets that delegate releases to the keys which the root names.

        None where they do already.
        """
        targets, named = self.metadata.targets(), delegation(self.metadata.root().signed)
        if targets.signed.delegations == named:
            return None
        targets.signed.delegations = named
        targets.signed.version = self.metadata.next_targets_version()
        targets.signed.expires = self._clock() + TARGETS_LIFETIME
        targets.signatures.clear()
        return targets

    def propose_releases(
        self, *, add: Iterable[Archive] = (), withdraw: str = "", extend: bool = False
    ) -> Metadata[Targets] | None:
        """The unsigned releases of axiom-client with these archives, without a withdrawn version.

        None if nothing would change. Raises ReleaseMalformed, NotFound.
        """
        now, current = self._clock(), self.metadata.releases()
        proposed = current or Metadata(new_releases(now))
        added = [add_release(proposed.signed, a.facts, a.data) for a in add]
        if withdraw:
            withdraw_release(proposed.signed, withdraw)
        if not (any(added) or withdraw or extend):
            return None
        proposed.signed.version = _next_version(proposed.signed.version, now)
        proposed.signed.expires = now + RELEASES_LIFETIME
        proposed.signatures.clear()
        return proposed

    def keep_archive(self, archive: Archive) -> None:
        """Write an archive that is to be released. Until it is signed, no host asks for it."""
        digest = hashlib.sha256(archive.data).hexdigest()
        path = self._path(digest, target_path(archive.facts))
        if not path.exists():
            replace_file(path, archive.data)

    def install_releases(self, releases: Metadata[Targets]) -> None:
        """Put signed releases into effect; their archives were kept before.

        Raises BundlesError when they do not follow the current ones, or a signature or an archive
        is missing.
        """
        with write_lock(self.folder):
            root, current = self.metadata.root().signed, self.metadata.releases()
            if self.metadata.targets().signed.delegations != delegation(root):
                raise BundlesError("the targets do not delegate to the keys that the root names: "
                                   "run axiom-server release trust")  # fmt: skip
            release_changes(current.signed if current else None, releases.signed)
            check_signatures(delegating(root), RELEASES, releases)
            for path, file in releases.signed.targets.items():
                if not self._path(file.hashes["sha256"], path).exists():
                    raise BundlesError(f"the archive {path} is missing: publish it again")
            meta = {f"{RELEASES}.json": self.metadata.write_releases(releases)}
            old = self.metadata.snapshot().signed
            self._sign_snapshot(meta, self._online_keys(None), old)

    def install_root(self, root: Metadata[Root], keys: Keys) -> None:
        """Put a signed root into effect, and sign again the roles whose keys it changes.

        keys  must include the targets key if the root changes that; likewise the server's keys

        Raises BundlesError when the root does not follow the current one or lacks a signature.
        """
        with write_lock(self.folder):
            check_root(self.metadata.root(), root)
            targets, snapshot = self.metadata.targets(), self.metadata.snapshot().signed
            meta = snapshot.meta[TARGETS_META]
            result = root.signed.get_verification_result(
                "targets", targets.signed_bytes, targets.signatures
            )
            if not result.verified:
                targets.signed.version = self.metadata.next_targets_version()
                targets.signatures.clear()
                sign(targets, keys.of("targets"))
                check_signatures(root.signed, "targets", targets)
                meta = self.metadata.write_targets(targets)
            self.metadata.write_root(root)
            self._sign_snapshot({TARGETS_META: meta}, keys, snapshot)

    def refresh_online(self, *, force: bool = False) -> bool:
        """Sign timestamp and snapshot again with the server's keys when they are due.

        The timestamp is due after an hour of its day, the snapshot after a tenth of its week. Call
        this at least every hour. Returns whether anything was signed. Raises BundlesError,
        KeysError.
        """
        now = self._clock()
        with write_lock(self.folder):
            snapshot, timestamp = self.metadata.snapshot(), self.metadata.timestamp()
            keys = self._online_keys(None)
            if force or snapshot.signed.expires - now < SNAPSHOT_LIFETIME * 0.9:
                self._sign_snapshot({}, keys, snapshot.signed)
                return True
            if timestamp.signed.expires - now < TIMESTAMP_LIFETIME - RESIGN_AFTER:
                self._sign_timestamp(timestamp.signed.snapshot_meta, keys)
                return True
        return False

    # Helpers

    def _change(
        self,
        keys: Keys,
        *,
        publish: Iterable[bytes] = (),
        withdraw: Iterable[str] = (),
        extend: bool = False,
    ) -> tuple[Published, ...]:
        sources = tuple(publish)
        with write_lock(self.folder):
            proposal = self.propose(publish=sources, withdraw=withdraw, extend=extend)
            if proposal.targets is not None:
                sign(proposal.targets, keys.of("targets"))
                self._install_targets(proposal.targets, sources, self._online_keys(keys))
        return proposal.published

    def _install_targets(
        self, targets: Metadata[Targets], sources: Iterable[bytes], keys: Keys
    ) -> None:
        current = self.metadata.snapshot()
        expected = self.metadata.next_targets_version()
        if targets.signed.version != expected:
            raise BundlesError(
                f"this was signed as version {targets.signed.version} of the targets, "
                f"and version {expected} comes next: write the request again"
            )
        check_signatures(self.metadata.root().signed, "targets", targets)
        for source in sources:
            published = read_bundle(source)
            replace_file(self._path(published.sha256, f"{published.manifest.ref}.py"), source)
        for path, file in targets.signed.targets.items():
            if not self._path(file.hashes["sha256"], path).exists():
                raise BundlesError(f"the source of {path} is missing: write the request again")
        meta = self.metadata.write_targets(targets)
        self._sign_snapshot({TARGETS_META: meta}, keys, current.signed)

    def _sign_snapshot(
        self, changed: Mapping[str, MetaFile], keys: Keys, old: Snapshot | None
    ) -> None:
        """Sign a snapshot with these entries changed. Clients refuse one that lacks an entry."""
        now = self._clock()
        snapshot = Snapshot(
            version=_next_version(old.version if old else 0, now),
            expires=now + SNAPSHOT_LIFETIME,
            meta={**(old.meta if old else {}), **changed},
        )
        metadata = Metadata(snapshot)
        sign(metadata, keys.of("snapshot"))
        check_signatures(self.metadata.root().signed, "snapshot", metadata)
        self._sign_timestamp(self.metadata.write_snapshot(metadata), keys)

    def _sign_timestamp(self, snapshot: MetaFile, keys: Keys) -> None:
        now = self._clock()
        old = self.metadata.timestamp().signed.version if self.metadata.exists else 0
        timestamp = Timestamp(
            version=_next_version(old, now),
            expires=now + TIMESTAMP_LIFETIME,
            snapshot_meta=snapshot,
        )
        metadata = Metadata(timestamp)
        sign(metadata, keys.of("timestamp"))
        check_signatures(self.metadata.root().signed, "timestamp", metadata)
        self.metadata.write_timestamp(metadata)

    def _online_keys(self, keys: Keys | None) -> Keys:
        if keys is not None and all(keys.has(role) for role in SERVER_ROLES):
            return keys
        return load_keys(self.keys_dir, roles=SERVER_ROLES)

    def _path(self, sha256: str, path: str) -> Path:
        return self.folder / "targets" / f"{sha256}.{path}"


def _next_version(old: int, now: datetime) -> int:
    """The next version of the server's metadata: seconds since 1970, and more than ``old``.

    With a counter, clients would mistake a server that was restored from an old backup for a
    rollback attack, until it had caught up.
    """
    return max(old + 1, int(now.timestamp()))
