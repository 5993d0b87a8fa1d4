"""Stolen keys, with and without thresholds; rotation; signing elsewhere; the pinned root."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import msgspec
import pytest
from tuf.api.metadata import Metadata, Root, TargetFile

from axiom_client.project.bundles import BundleRefused, BundleStore
from axiom_server.trust.keys import Keys, KeysError, init_keys, key_files, load_keys, protect_key
from axiom_server.trust.metadata import sign
from axiom_server.trust.repository import BundlesError, Published
from axiom_server.trust.root_rotation import propose_root, rotate
from axiom_server.trust.signing_request import (
    SigningRequest,
    read_request,
    request_root,
    request_targets,
)
from tests.trust.hostile import HostileServer, Project, host, meta_file, own_keys, script, served

PASSPHRASE = "correct horse battery staple"


def get(store: BundleStore, bundle: Published) -> Path:
    return store.fetch(bundle.name, bundle.version, bundle.sha256)


def only(keys: Keys, *chosen: tuple[str, int]) -> Keys:
    """Of all keys the ones that a thief has: (role, index)."""
    return Keys(signers={role: (keys.signers[role][index],) for role, index in chosen})


def publish_with(project: Project, stolen: Keys, server: HostileServer) -> str:
    """An attacker with stolen keys and the server's publishes an evil version; its SHA-256."""
    source = script("6.6.6", remark="\nimport evil\n")
    targets = project.repository.metadata.targets()
    file = TargetFile.from_data("short_walk@6.6.6.py", source, ["sha256"])
    targets.signed.targets[file.path] = file
    targets.signed.version += 1
    targets.signatures.clear()
    sign(targets, stolen.of("targets"))
    snapshot = project.repository.metadata.snapshot()
    snapshot.signed.version += 1
    snapshot.signed.meta["targets.json"] = meta_file(targets.to_bytes())
    sign(snapshot, project.keys.of("snapshot"))
    timestamp = project.repository.metadata.timestamp()
    timestamp.signed.version += 1
    timestamp.signed.snapshot_meta = meta_file(snapshot.to_bytes())
    sign(timestamp, project.keys.of("timestamp"))
    server.answer(f"metadata/{targets.signed.version}.targets.json", targets.to_bytes())
    server.answer(f"metadata/{snapshot.signed.version}.snapshot.json", snapshot.to_bytes())
    server.answer("metadata/timestamp.json", timestamp.to_bytes())
    sha256 = file.hashes["sha256"]
    server.answer(f"targets/{sha256}.{file.path}", source)
    return sha256


# Key compromise


def test_online_keys_sign_no_software(
    project: Project, server: HostileServer, store: BundleStore, walk: Published, tmp_path: Path
) -> None:
    get(store, walk)
    evil = publish_with(project, own_keys(tmp_path / "mallory"), server)
    with pytest.raises(BundleRefused) as caught:
        store.fetch("short_walk", "6.6.6", evil)
    assert caught.value.attack == "arbitrary software"
    assert get(store, walk).exists()


def test_the_only_targets_key_signs_software_until_staff_rotate_it(
    project: Project, server: HostileServer, store: BundleStore, walk: Published, tmp_path: Path
) -> None:
    """What a threshold of one means, and how a project gets out of it."""
    evil = publish_with(project, only(project.keys, ("targets", 0)), server)
    assert store.fetch("short_walk", "6.6.6", evil).exists()
    server.tricks.clear()
    for _ in range(4):
        project.repository.extend(project.keys)  # past the versions that the attacker used
    rotate(project.repository, project.folder / "keys", "targets")
    with pytest.raises(BundleRefused) as caught:
        store.fetch("short_walk", "6.6.6", evil)
    assert caught.value.attack == "arbitrary software"
    assert get(store, walk).exists()
    evil = publish_with(project, only(project.keys, ("targets", 0)), server)
    with pytest.raises(BundleRefused) as caught:
        store.fetch("short_walk", "6.6.6", evil)
    assert caught.value.attack == "arbitrary software"


@pytest.fixture
def guarded(tmp_path: Path) -> Project:
    """A project where two of three targets keys, and two of two root keys, must sign."""
    return Project(
        tmp_path / "guarded",
        counts={"targets": 3, "root": 2},
        thresholds={"targets": 2, "root": 2},
    )


@pytest.fixture
def guarded_server(guarded: Project) -> Iterator[HostileServer]:
    with served(guarded) as server:
        yield server


def test_one_stolen_targets_key_of_two_signs_no_software(
    guarded: Project, guarded_server: HostileServer, tmp_path: Path
) -> None:
    walk = guarded.publish()
    with host(tmp_path / "host", guarded_server.url) as store:
        get(store, walk)
        evil = publish_with(guarded, only(guarded.keys, ("targets", 1)), guarded_server)
        with pytest.raises(BundleRefused) as caught:
            store.fetch("short_walk", "6.6.6", evil)
        assert caught.value.attack == "arbitrary software"
        assert get(store, walk).exists()


def test_one_stolen_root_key_of_two_changes_no_keys(
    guarded: Project, guarded_server: HostileServer, tmp_path: Path
) -> None:
    walk = guarded.publish()
    mallory = own_keys(tmp_path / "mallory")
    trusted = guarded.repository.metadata.root()
    root = propose_root(
        trusted,
        "targets",
        add=[mallory.of("targets")[0].public_key],
        drop=trusted.signed.roles["targets"].keyids,
        threshold=1,
    )
    sign(root, guarded.keys.of("root")[:1])
    with pytest.raises(BundlesError, match="1 of the 2"):
        guarded.repository.install_root(root, guarded.keys)
    with host(tmp_path / "host", guarded_server.url) as store:
        get(store, walk)
        guarded_server.answer("metadata/2.root.json", root.to_bytes())
        assert get(store, walk).exists()
        with pytest.raises(BundleRefused) as caught:
            store.fetch("short_walk", "6.6.6", "0" * 64)
        assert caught.value.attack == "arbitrary software"


def test_a_root_signed_by_an_attacker_is_not_followed(
    project: Project, server: HostileServer, store: BundleStore, walk: Published, tmp_path: Path
) -> None:
    mallory = own_keys(tmp_path / "mallory")
    trusted = project.repository.metadata.root()
    root = propose_root(
        trusted,
        "root",
        add=[mallory.of("root")[0].public_key],
        drop=trusted.signed.roles["root"].keyids,
    )
    sign(root, mallory.of("root"))
    server.answer("metadata/2.root.json", root.to_bytes())
    with pytest.raises(BundleRefused) as caught:
        get(store, walk)
    assert caught.value.attack == "arbitrary software"


# Rotation


@pytest.mark.parametrize("role", ["root", "targets", "snapshot", "timestamp"])
def test_hosts_follow_a_rotation(
    project: Project, server: HostileServer, store: BundleStore, walk: Published, role: str
) -> None:
    get(store, walk)
    old = load_keys(project.folder / "keys").of(role)[0].public_key.keyid
    rotate(project.repository, project.folder / "keys", role)
    keys = load_keys(project.folder / "keys")
    assert keys.of(role)[0].public_key.keyid != old
    assert old not in project.repository.metadata.root().signed.roles[role].keyids
    newer = project.repository.publish(script("2.0.0"), keys)
    assert get(store, newer).exists()
    project.repository.refresh_online(force=True)
    rotate(project.repository, project.folder / "keys", role)  # and once more
    assert get(store, walk).exists()


def test_a_rotation_that_was_interrupted_goes_on(
    project: Project, server: HostileServer, store: BundleStore, walk: Published
) -> None:
    """The machine stopped after the new root was installed, before the files were moved."""
    keys_dir = project.folder / "keys"
    before = shutil.copytree(keys_dir, project.folder / "before")
    rotate(project.repository, keys_dir, "timestamp")
    (keys_dir / "next").mkdir(exist_ok=True)
    for name in ("timestamp.pem", "timestamp.pub"):
        shutil.move(keys_dir / name, keys_dir / "next" / name)
        shutil.copy(before / name, keys_dir / name)
    with pytest.raises(BundlesError, match="keys list"):
        project.repository.refresh_online(force=True)
    rotate(project.repository, keys_dir, "timestamp")
    assert project.repository.refresh_online(force=True)
    assert get(store, walk).exists()


def test_what_a_killed_signer_left_is_removed_at_the_next_signature(project: Project) -> None:
    bundles = project.folder / "bundles"
    left = [
        bundles / "metadata" / ".9.snapshot.json.partial",
        bundles / "targets" / ".a.py.partial",
    ]
    for path in left:
        path.write_bytes(b"{")
    assert project.repository.refresh_online(force=True)
    assert not any(path.exists() for path in left)


def test_a_rotation_on_a_full_disk_goes_on_when_there_is_room(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        rotate(project.repository, project.folder / "keys", "timestamp")
    monkeypatch.undo()
    assert not list((project.folder / "keys" / "next").iterdir())
    rotate(project.repository, project.folder / "keys", "timestamp")
    assert project.repository.refresh_online(force=True)


# Requests signed elsewhere


def ask(project: Project, source: bytes) -> SigningRequest:
    metadata = project.repository.metadata
    proposal = project.repository.propose(publish=[source])
    assert proposal.targets is not None
    return request_targets(metadata.root(), metadata.targets(), proposal.targets, [source])


def test_a_request_collects_the_signatures_that_the_threshold_asks_for(
    guarded: Project, guarded_server: HostileServer, tmp_path: Path
) -> None:
    asked = ask(guarded, script("3.0.0"))
    assert asked.missing_signatures() == 2
    assert asked.changes()[0].startswith("publish short_walk@3.0.0 (")
    assert asked.fingerprint() == guarded.repository.fingerprint()
    first, _, third = guarded.keys.of("targets")
    once = asked.signed_by([first])
    assert once.missing_signatures() == 1
    with pytest.raises(BundlesError, match="1 of the 2"):
        guarded.repository.install_targets(
            once.signed_targets(), [s.encode() for s in once.sources.values()]
        )
    path = tmp_path / "request.json"
    path.write_bytes(msgspec.json.encode(once.signed_by([first])))  # the same key again
    assert read_request(path).missing_signatures() == 1
    done = read_request(path).signed_by([third])
    assert done.missing_signatures() == 0
    guarded.repository.install_targets(
        done.signed_targets(), [s.encode() for s in done.sources.values()]
    )
    with host(tmp_path / "host", guarded_server.url) as store:
        sha256 = next(iter(done.sources))
        assert store.fetch("short_walk", "3.0.0", sha256).read_bytes() == script("3.0.0")


def test_a_request_shows_every_change_that_it_makes(project: Project, walk: Published) -> None:
    """A taken-over server cannot have more signed than the signer is shown."""
    asked = ask(project, script("3.0.0"))
    targets = asked.signed_targets()

    def tampered(change: object) -> SigningRequest:
        copy = Metadata.from_dict(targets.to_dict())
        change(copy.signed)
        return msgspec.structs.replace(asked, proposed=copy.to_bytes().decode())

    def evil(signed: object) -> None:
        signed.targets["short_walk@6.6.6.py"] = TargetFile.from_data(
            "short_walk@6.6.6.py", b"import evil", ["sha256"]
        )

    def other_bytes(signed: object) -> None:
        signed.targets["short_walk@1.0.0.py"].hashes["sha256"] = "0" * 64

    def lost(signed: object) -> None:
        del signed.targets["short_walk@1.0.0.py"]

    def ahead(signed: object) -> None:
        signed.version += 5

    for change in (evil, other_bytes, lost, ahead):
        with pytest.raises(BundlesError):
            tampered(change).signed_by(project.keys.of("targets"))
    with pytest.raises(BundlesError):
        msgspec.structs.replace(asked, sources={}).changes()
    with pytest.raises(KeysError, match="none of these keys"):
        asked.signed_by(project.keys.of("snapshot"))


def test_a_request_that_came_too_late_is_refused(project: Project, walk: Published) -> None:
    late = ask(project, script("3.0.0")).signed_by(project.keys.of("targets"))
    project.publish("2.0.0")
    with pytest.raises(BundlesError, match="write the request again"):
        project.repository.install_targets(late.signed_targets(), [script("3.0.0")])


def test_a_threshold_is_raised_by_request(
    project: Project, server: HostileServer, store: BundleStore, walk: Published, tmp_path: Path
) -> None:
    second = own_keys(tmp_path / "second").of("targets")
    trusted = project.repository.metadata.root()
    proposed = propose_root(trusted, "targets", add=[second[0].public_key], threshold=2)
    asked = request_root(trusted, proposed)
    assert any(line.startswith("trust the targets key") for line in asked.changes())
    assert any(line.startswith("require 2 targets signatures") for line in asked.changes())
    signed = asked.signed_by(project.keys.of("root"))
    assert signed.missing_signatures() == 0
    both = Keys(signers={**project.keys.signers, "targets": (*project.keys.of("targets"), *second)})
    project.repository.install_root(signed.signed_root(), both)
    with pytest.raises(BundlesError, match="1 of the 2"):
        project.repository.publish(script("2.0.0"), project.keys)
    newer = project.repository.publish(script("2.0.0"), both)
    assert get(store, newer).exists()


# Key files


def test_staff_keys_are_encrypted_and_owner_only(tmp_path: Path) -> None:
    init_keys(tmp_path / "keys", PASSPHRASE)
    for path in (tmp_path / "keys").glob("*.pem"):
        assert path.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "keys").stat().st_mode & 0o777 == 0o700
    with pytest.raises(KeysError, match="is encrypted"):
        load_keys(tmp_path / "keys")
    with pytest.raises(KeysError, match="passphrase is wrong"):
        load_keys(tmp_path / "keys", "another passphrase")
    assert load_keys(tmp_path / "keys", PASSPHRASE).has("root")
    assert load_keys(tmp_path / "keys", roles=("snapshot", "timestamp")).has("timestamp")
    with pytest.raises(KeysError, match="exists already"):
        init_keys(tmp_path / "keys", PASSPHRASE)
    with pytest.raises(KeysError, match="at least 12"):
        init_keys(tmp_path / "short", "secret")


def test_a_key_is_protected_in_place(tmp_path: Path) -> None:
    init_keys(tmp_path / "keys", None)
    before = load_keys(tmp_path / "keys").of("root")[0].public_key
    (path,) = key_files(tmp_path / "keys", "root")
    assert protect_key(path, PASSPHRASE)
    assert not protect_key(path, PASSPHRASE)
    assert load_keys(tmp_path / "keys", PASSPHRASE).of("root")[0].public_key == before
    assert key_files(tmp_path / "keys", "root") == [path]


# The pinned root


def test_the_fingerprint_decides_which_root_is_pinned(
    project: Project, server: HostileServer, walk: Published, tmp_path: Path
) -> None:
    first = project.repository.fingerprint()
    rotate(project.repository, project.folder / "keys", "root")
    newest = project.repository.fingerprint()
    assert first != newest
    with httpx.Client(trust_env=False) as client:
        for expected in (None, newest, f"SHA256:{first.upper()}"):
            store = BundleStore(tmp_path / str(expected)[:12], server.url, client)
            pinned = store.pin_root(expected)
            assert pinned == (first if expected and expected.endswith(first.upper()) else newest)
            assert get(store, walk).exists()
            assert store.pin_root(pinned) == pinned
            with pytest.raises(BundleRefused) as caught:
                store.pin_root("0" * 64)
            assert caught.value.attack == "wrong root"
        for wrong in ("0" * 64, "not a fingerprint"):
            store = BundleStore(tmp_path / "other", server.url, client)
            with pytest.raises(BundleRefused) as caught:
                store.pin_root(wrong)
            assert caught.value.attack == "wrong root"
            assert not (tmp_path / "other" / "pinned.root.json").exists()


def test_another_project_at_the_same_address_is_not_trusted(
    project: Project, server: HostileServer, store: BundleStore, walk: Published, tmp_path: Path
) -> None:
    """The pinned root stays, whatever the address serves later."""
    mallory = Project(tmp_path / "mallory")
    evil = mallory.publish()
    server.bundles = mallory.folder / "bundles"
    with pytest.raises(BundleRefused) as caught:
        get(store, evil)
    assert caught.value.attack == "arbitrary software"


@pytest.mark.parametrize("damaged", [None, b"", b"{}", b"\0" * 4096])
def test_a_lost_root_is_fetched_again_by_its_fingerprint(
    project: Project, server: HostileServer, walk: Published, tmp_path: Path, damaged: bytes | None
) -> None:
    """Also when staff have rotated the root since; another project's root is not pinned."""
    with httpx.Client(trust_env=False) as client:
        first = BundleStore(tmp_path / "host", server.url, client).pin_root(None)
        rotate(project.repository, project.folder / "keys", "root")
        pin = tmp_path / "host" / "pinned.root.json"
        before = pin.read_bytes()
        pin.unlink() if damaged is None else pin.write_bytes(damaged)

        mallory = Project(tmp_path / "mallory")
        mallory.publish()
        honest, server.bundles = server.bundles, mallory.folder / "bundles"
        store = BundleStore(tmp_path / "host", server.url, client, root_fingerprint=first)
        with pytest.raises(BundleRefused) as caught:
            get(store, walk)
        assert caught.value.attack == "wrong root"

        server.bundles = honest
        assert get(store, walk).exists()
        assert pin.read_bytes() == before


def test_a_root_that_is_no_root_is_not_pinned(server: HostileServer, tmp_path: Path) -> None:
    fakes = [b"", b"{}", b"[" * 100_000, (server.bundles / "metadata/timestamp.json").read_bytes()]
    unsigned: Metadata[Root] = Metadata.from_bytes(
        (server.bundles / "metadata/root.json").read_bytes()
    )
    unsigned.signatures.clear()
    with httpx.Client(trust_env=False) as client:
        for fake in (*fakes, unsigned.to_bytes()):
            server.answer("metadata/root.json", fake)
            with pytest.raises(BundleRefused):
                BundleStore(tmp_path / "host", server.url, client).pin_root(None)
    assert not (tmp_path / "host" / "pinned.root.json").exists()
