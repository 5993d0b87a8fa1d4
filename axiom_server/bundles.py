"""The project's bundles: a TUF repository on disk that any web server can serve.

DIR/bundles/metadata holds what staff and server signed, DIR/bundles/targets the experiments as
``<sha256>.<name>@<version>.py``. What may run is decided by the targets key alone, which staff
hold; the server's keys (snapshot, timestamp) only say which decision is the newest. Format and
rules: The Update Framework's specification 1.0.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tuf.api.exceptions import UnsignedMetadataError
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp

from axiom_protocol.manifest import SCRIPT_BYTES_MAX, Manifest, ManifestError, read_manifest
from axiom_server.keys import ROLES, SERVER_ROLES, Keys, Role, load_keys
from axiom_server.metadata import (
    RESIGN_AFTER,
    ROOT_LIFE,
    SNAPSHOT_LIFE,
    TARGETS_LIFE,
    TIMESTAMP_LIFE,
    BundlesError,
    Clock,
    MetadataFolder,
    only_writer,
    sign,
    utc_now,
    write_file,
)

#: Where signed targets metadata keeps what was withdrawn: {"name@version": sha256}. TUF lets
#: clients that do not know the field ignore it; ours say "withdrawn" rather than "unknown".
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
    """What the current targets metadata says of one version."""

    name: str
    version: str
    sha256: str
    length: int  # bytes; 0 when withdrawn
    withdrawn: bool


class Repository:
    """The bundles under one folder, DIR/bundles; the server's keys are beside it, in DIR/keys."""

    def __init__(
        self, folder: Path, *, keys_dir: Path | None = None, clock: Clock = utc_now
    ) -> None:
        self.folder = folder
        self.keys_dir = keys_dir or folder.parent / "keys"
        self.metadata = MetadataFolder(folder / "metadata")
        self._clock = clock

    # What is there

    def fingerprint(self) -> str:
        """The newest root's fingerprint, which a volunteer compares when attaching."""
        return root_fingerprint(self.metadata.root())

    def bundles(self) -> list[Bundle]:
        """Every version that was ever signed, sorted by name and version, withdrawn ones too."""
        targets = self.metadata.targets().signed
        live = [
            _bundle(path.removesuffix(".py"), file.hashes["sha256"], file.length, False)
            for path, file in targets.targets.items()
        ]
        gone = [_bundle(ref, sha256, 0, True) for ref, sha256 in withdrawn_in(targets).items()]
        return sorted(
            live + gone, key=lambda b: (b.name, [int(part) for part in b.version.split(".")])
        )

    def source(self, name: str, version: str) -> bytes:
        """The published bytes of a live version. Raises BundlesError."""
        file = self._live(self.metadata.targets().signed, f"{name}@{version}")
        return (self.folder / "targets" / _hashed_name(file)).read_bytes()

    def expiries(self) -> dict[Role, datetime]:
        """When each role's metadata expires; clients refuse the bundles from then on."""
        read = self.metadata
        return {
            "root": read.root().signed.expires,
            "targets": read.targets().signed.expires,
            "snapshot": read.snapshot().signed.expires,
            "timestamp": read.timestamp().signed.expires,
        }

    # What changes it

    def create(self, keys: Keys, thresholds: Mapping[Role, int] | None = None) -> None:
        """Write the first root, targets, snapshot and timestamp, signed with every key of ``keys``.

        thresholds  how many signatures a role needs (one, unless said)

        Raises BundlesError when there are bundles already, or fewer keys than a threshold needs.
        """
        if self.metadata.exists:
            raise BundlesError(f"{self.folder} holds bundles already; nothing was changed")
        with only_writer(self.folder):
            root = Metadata(Root(version=1, expires=self._clock() + ROOT_LIFE))
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
            targets = Metadata(Targets(version=1, expires=self._clock() + TARGETS_LIFE))
            sign(targets, keys.of("targets"))
            (self.folder / "targets").mkdir(exist_ok=True)
            self._sign_snapshot(self.metadata.write_targets(targets), keys, None)

    def publish(self, source: bytes, keys: Keys) -> Published:
        """Sign one experiment and make it available. The same bytes twice change nothing.

        Raises ManifestError for a wrong experiment, BundlesError when the version exists with other
        bytes or was withdrawn, KeysError when the targets key is not in ``keys``.
        """
        with only_writer(self.folder):
            published, targets = self.propose_publish(source)
            if targets is not None:
                sign(targets, keys.of("targets"))
                self._install_targets(targets, keys)
        return published

    def withdraw(self, name: str, version: str, keys: Keys) -> None:
        """Sign that a version must not run any more. Withdrawing it again changes nothing."""
        with only_writer(self.folder):
            targets = self.propose_withdraw(name, version)
            if targets is not None:
                sign(targets, keys.of("targets"))
                self._install_targets(targets, keys)

    def refresh_online(self, *, force: bool = False) -> bool:
        """Re-sign timestamp and snapshot with the server's keys once they are due.

        Due: an hour of the timestamp's day is gone, or a tenth of the snapshot's week. Call it
        hourly or oftener. Returns whether anything was signed. Raises BundlesError, KeysError.
        """
        now = self._clock()
        with only_writer(self.folder):
            snapshot, timestamp = self.metadata.snapshot(), self.metadata.timestamp()
            keys = self._online_keys(None)
            if force or snapshot.signed.expires - now < SNAPSHOT_LIFE * 0.9:
                self._sign_snapshot(snapshot.signed.meta["targets.json"], keys, snapshot.signed)
                return True
            if timestamp.signed.expires - now < TIMESTAMP_LIFE - RESIGN_AFTER:
                self._sign_timestamp(timestamp.signed.snapshot_meta, keys)
                return True
        return False

    def propose_publish(self, source: bytes) -> tuple[Published, Metadata[Targets] | None]:
        """The unsigned targets that would publish ``source``; None when it is published already."""
        published = read_bundle(source)
        ref = published.manifest.ref
        targets = self.metadata.targets()
        if ref in withdrawn_in(targets.signed):
            raise BundlesError(f"{ref} was withdrawn and stays so; raise its version and publish")
        path = f"{ref}.py"
        there = targets.signed.targets.get(path)
        if there is not None and there.hashes["sha256"] == published.sha256:
            return published, None
        if there is not None:
            raise BundlesError(
                f"{ref} is published with other contents, and a published version never changes; "
                "raise the version in its metadata and publish that"
            )
        file = TargetFile.from_data(path, source, ["sha256"])
        write_file(self.folder / "targets" / _hashed_name(file), source)
        targets.signed.targets[path] = file
        return published, self._unsigned(targets)

    def propose_withdraw(self, name: str, version: str) -> Metadata[Targets] | None:
        """The unsigned targets that would withdraw a version; None when it is withdrawn already."""
        ref = f"{name}@{version}"
        targets = self.metadata.targets()
        if ref in withdrawn_in(targets.signed):
            return None
        file = self._live(targets.signed, ref)
        del targets.signed.targets[file.path]
        gone = {**withdrawn_in(targets.signed), ref: file.hashes["sha256"]}
        targets.signed.unrecognized_fields[WITHDRAWN_FIELD] = gone
        return self._unsigned(targets)

    def install_targets(self, targets: Metadata[Targets]) -> None:
        """Make targets current that were signed elsewhere. Raises BundlesError: they do not fit."""
        with only_writer(self.folder):
            self._install_targets(targets, None)

    # How

    def _install_targets(self, targets: Metadata[Targets], keys: Keys | None) -> None:
        current = self.metadata.snapshot()
        expected = current.signed.meta["targets.json"].version + 1
        if targets.signed.version != expected:
            raise BundlesError(
                f"this request was made for version {targets.signed.version} of the targets, "
                f"which now need version {expected}: make the request again"
            )
        check_signatures(self.metadata.root().signed, targets)
        for file in targets.signed.targets.values():
            if not (self.folder / "targets" / _hashed_name(file)).exists():
                raise BundlesError(
                    f"targets/{_hashed_name(file)} is missing; publish it here first"
                )
        meta = self.metadata.write_targets(targets)
        self._sign_snapshot(meta, self._online_keys(keys), current.signed)

    def _sign_snapshot(self, targets: MetaFile, keys: Keys, old: Snapshot | None) -> None:
        version = old.version + 1 if old else 1
        snapshot = Snapshot(
            version=version, expires=self._clock() + SNAPSHOT_LIFE, meta={"targets.json": targets}
        )
        metadata = Metadata(snapshot)
        sign(metadata, keys.of("snapshot"))
        self._sign_timestamp(self.metadata.write_snapshot(metadata), keys)

    def _sign_timestamp(self, snapshot: MetaFile, keys: Keys) -> None:
        version = self.metadata.timestamp().signed.version + 1 if self.metadata.exists else 1
        timestamp = Timestamp(
            version=version, expires=self._clock() + TIMESTAMP_LIFE, snapshot_meta=snapshot
        )
        metadata = Metadata(timestamp)
        sign(metadata, keys.of("timestamp"))
        self.metadata.write_timestamp(metadata)

    def _online_keys(self, keys: Keys | None) -> Keys:
        if keys is not None and all(keys.has(role) for role in SERVER_ROLES):
            return keys
        return load_keys(self.keys_dir, roles=SERVER_ROLES)

    def _unsigned(self, targets: Metadata[Targets]) -> Metadata[Targets]:
        targets.signed.version += 1
        targets.signed.expires = self._clock() + TARGETS_LIFE
        targets.signatures.clear()
        return targets

    def _live(self, targets: Targets, ref: str) -> TargetFile:
        file = targets.targets.get(f"{ref}.py")
        if file is None:
            why = "was withdrawn" if ref in withdrawn_in(targets) else "was never published"
            raise BundlesError(f"{ref} {why}; axiom-server experiments lists what there is")
        return file


def read_bundle(source: bytes) -> Published:
    """Check an experiment's bytes as far as possible without running it. Raises ManifestError."""
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


def root_fingerprint(root: Metadata[Root]) -> str:
    """SHA-256, in hex, of the root's signed bytes: a further signature on it does not change it."""
    return hashlib.sha256(root.signed_bytes).hexdigest()


def withdrawn_in(targets: Targets) -> dict[str, str]:
    """``name@version`` -> sha256 of what was withdrawn."""
    return dict(targets.unrecognized_fields.get(WITHDRAWN_FIELD, {}))


def check_signatures(root: Root, metadata: Metadata[Targets]) -> None:
    """Raise BundlesError unless the threshold of the root's targets keys signed."""
    try:
        root.verify_delegate("targets", metadata.signed_bytes, metadata.signatures)
    except UnsignedMetadataError:
        found = root.get_verification_result("targets", metadata.signed_bytes, metadata.signatures)
        raise BundlesError(
            f"the targets have {len(found.signed)} of {found.threshold} signatures they need; "
            "have them signed with axiom-server sign by those who hold the other keys"
        ) from None


def _bundle(ref: str, sha256: str, length: int, withdrawn: bool) -> Bundle:
    name, _, version = ref.partition("@")
    return Bundle(name=name, version=version, sha256=sha256, length=length, withdrawn=withdrawn)


def _hashed_name(file: TargetFile) -> str:
    return f"{file.hashes['sha256']}.{file.path}"
