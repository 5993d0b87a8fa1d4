"""Each attack of TUF's specification 1.5.2, by a hostile server, against a host's bundle store.

Each is refused and logged with its name, and the host continues with its cached bundles.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import httpx
import pytest

from axiom_client.project.bundles import BundleRefused, BundleStore
from axiom_client.project.refusal import Attack
from axiom_protocol.manifest import SCRIPT_BYTES_MAX
from axiom_server.trust.keys import Role
from axiom_server.trust.metadata import TARGETS_LIFETIME, TIMESTAMP_LIFETIME, sign, utc_now
from axiom_server.trust.repository import Published, Repository
from axiom_server.trust.root_rotation import propose_root
from tests.trust.hostile import (
    HostileServer,
    Project,
    at,
    endless,
    forge,
    host,
    meta_file,
    own_keys,
    script,
    send,
    served,
)


def get(store: BundleStore, bundle: Published) -> Path:
    return store.fetch(bundle.name, bundle.version, bundle.sha256)


@contextmanager
def refused(attack: Attack, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """What is in the block is refused as this attack, and the log says so."""
    caplog.clear()
    with caplog.at_level(logging.WARNING), pytest.raises(BundleRefused) as caught:
        yield
    assert caught.value.attack == attack
    assert f"refused: {attack}: " in caplog.text


def goes_on(
    store: BundleStore, bundle: Published, attack: Attack, caplog: pytest.LogCaptureFixture
) -> None:
    """The attack is logged, and a bundle that the host has still runs."""
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert get(store, bundle).read_bytes() == script(bundle.version, bundle.name)
    assert f"refused: {attack}: " in caplog.text


# Arbitrary software


def test_software_signed_by_others_is_refused(
    project: Project,
    server: HostileServer,
    store: BundleStore,
    walk: Published,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    get(store, walk)
    mallory = Project(tmp_path / "mallory")
    evil = mallory.publish("6.6.6")
    for _ in range(3):
        mallory.repository.refresh_online(force=True)  # ahead of the versions that were seen
    server.bundles = mallory.folder / "bundles"
    with refused("arbitrary software", caplog):
        get(store, evil)
    goes_on(store, walk, "arbitrary software", caplog)


def test_a_version_that_staff_never_signed_is_refused(
    store: BundleStore, caplog: pytest.LogCaptureFixture
) -> None:
    with refused("arbitrary software", caplog):
        store.fetch("short_walk", "9.9.9", "0" * 64)


def test_a_version_published_just_after_a_refresh_is_found(
    project: Project, server: HostileServer, walk: Published, tmp_path: Path
) -> None:
    with httpx.Client(trust_env=False) as client:
        store = BundleStore(tmp_path / "host", server.url, client)
        store.pin_root(None)
        get(store, walk)
        newer = project.publish("2.0.0")
        assert get(store, newer).read_bytes() == script("2.0.0")


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("../../../../etc/passwd", "1.0.0"),
        ("short_walk", "1.0.0/../../x"),
        ("short_walk", "1.0.0\n"),
        ("short_walk", "\u0661.0.0"),
        ("", ""),
    ],
)
def test_a_name_that_is_a_path_never_reaches_disk_or_network(
    server: HostileServer,
    store: BundleStore,
    walk: Published,
    name: str,
    version: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    server.asked.clear()
    with refused("arbitrary software", caplog):
        store.fetch(name, version, walk.sha256)
    with refused("arbitrary software", caplog):
        store.fetch(walk.name, walk.version, "../" + walk.sha256)
    assert server.asked == []


# Wrong software


def test_other_bytes_under_a_signed_name_are_refused(
    server: HostileServer,
    store: BundleStore,
    walk: Published,
    caplog: pytest.LogCaptureFixture,
) -> None:
    evil = script().replace(b"import time", b"import evil")
    server.answer(f"targets/{walk.sha256}.short_walk@1.0.0.py", evil[: walk.length])
    with refused("wrong software", caplog):
        get(store, walk)
    server.tricks.clear()
    assert get(store, walk).read_bytes() == script()


def test_one_bundle_does_not_pass_for_another(
    project: Project,
    store: BundleStore,
    walk: Published,
    caplog: pytest.LogCaptureFixture,
) -> None:
    other = project.publish("2.0.0")
    with refused("wrong software", caplog):
        store.fetch(walk.name, walk.version, other.sha256)


def test_a_bundle_changed_in_the_cache_is_fetched_again(
    server: HostileServer,
    store: BundleStore,
    walk: Published,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = get(store, walk)
    path.write_bytes(path.read_bytes() + b"import evil\n")
    assert get(store, walk).read_bytes() == script()
    path.write_bytes(b"import evil\n")
    server.everywhere = lambda request: request.send_error(503)
    with refused("unreachable", caplog):
        get(store, walk)


# Rollback


def test_a_server_restored_from_a_backup_is_no_rollback(
    project: Project,
    server: HostileServer,
    store: BundleStore,
    walk: Published,
    tmp_path: Path,
) -> None:
    backup = project.copy(tmp_path / "backup")
    for _ in range(30):
        project.repository.refresh_online(force=True)
    get(store, walk)
    shutil.rmtree(project.folder / "bundles")
    backup.rename(project.folder / "bundles")
    clock = at(utc_now() + timedelta(minutes=5))  # the time that the restoring took
    project.repository = Repository(project.folder / "bundles", clock=clock)
    project.repository.refresh_online(force=True)
    newer = project.publish("2.0.0")
    assert get(store, newer).exists()


def test_metadata_older_than_seen_is_refused_and_a_withdrawal_stands(
    project: Project,
    server: HostileServer,
    store: BundleStore,
    walk: Published,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    newer = project.publish("2.0.0")
    old = project.copy(tmp_path / "old")
    project.repository.withdraw(walk.name, walk.version, project.keys)
    get(store, newer)
    server.bundles = old
    goes_on(store, newer, "rollback", caplog)
    with refused("withdrawn", caplog):
        get(store, walk)


def test_a_version_asked_for_just_after_an_attack_is_fetched_later(
    project: Project, server: HostileServer, walk: Published, tmp_path: Path
) -> None:
    """The metadata are not downloaded again at once; their refusal says nothing of this version."""
    old = project.copy(tmp_path / "old")
    second = project.publish("2.0.0")
    with httpx.Client(trust_env=False) as client:
        store = BundleStore(tmp_path / "host", server.url, client)
        store.pin_root(None)
        get(store, second)
        third = project.publish("3.0.0")
        server.bundles, honest = old, server.bundles
        with pytest.raises(BundleRefused, match="rollback") as first:
            get(store, third)
        server.bundles = honest
        with pytest.raises(BundleRefused, match="rollback") as again:
            get(store, third)
    assert (first.value.temporary, again.value.temporary) == (False, True)


def test_the_timestamp_key_alone_cannot_bring_an_old_snapshot_back(
    project: Project,
    server: HostileServer,
    store: BundleStore,
    walk: Published,
    caplog: pytest.LogCaptureFixture,
) -> None:
    old = project.repository.metadata.timestamp().signed.snapshot_meta
    newer = project.publish("2.0.0")
    get(store, newer)

    def point_back(timestamp: object) -> None:
        timestamp.version += 10
        timestamp.snapshot_meta = old

    server.answer("metadata/timestamp.json", forge(project, "timestamp", point_back, project.keys))
    goes_on(store, newer, "rollback", caplog)


def test_all_online_keys_together_cannot_bring_a_withdrawn_version_back(
    project: Project,
    server: HostileServer,
    store: BundleStore,
    walk: Published,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Server, database and online keys are the attacker's: an old version stays withdrawn."""
    signed_before = project.repository.metadata.snapshot().signed.meta["targets.json"]
    newer = project.publish("2.0.0")
    project.repository.withdraw(walk.name, walk.version, project.keys)
    get(store, newer)

    def old_targets(snapshot: object) -> None:
        snapshot.version += 1
        snapshot.meta["targets.json"] = signed_before

    snapshot = forge(project, "snapshot", old_targets, project.keys)

    def new_snapshot(timestamp: object) -> None:
        timestamp.version += 1
        timestamp.snapshot_meta = meta_file(snapshot)

    version = meta_file(snapshot).version
    server.answer(f"metadata/{version}.snapshot.json", snapshot)
    server.answer(
        "metadata/timestamp.json", forge(project, "timestamp", new_snapshot, project.keys)
    )
    goes_on(store, newer, "rollback", caplog)
    with refused("withdrawn", caplog):
        get(store, walk)


def test_an_older_root_is_refused(
    project: Project,
    server: HostileServer,
    store: BundleStore,
    walk: Published,
    caplog: pytest.LogCaptureFixture,
) -> None:
    get(store, walk)
    server.answer("metadata/2.root.json", (project.metadata / "1.root.json").read_bytes())
    goes_on(store, walk, "rollback", caplog)


# Fast-forward


@pytest.mark.parametrize("role", ["timestamp", "snapshot"])
def test_versions_of_the_far_future_are_refused(
    project: Project,
    server: HostileServer,
    store: BundleStore,
    walk: Published,
    role: Role,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Signed with the real online keys; the honest server is believed again at once."""
    get(store, walk)

    def far_ahead(metadata: object) -> None:
        metadata.version = 2**40

    forged = forge(project, role, far_ahead, project.keys)
    if role == "snapshot":
        server.answer(f"metadata/{2**40}.snapshot.json", forged)

        def new_snapshot(timestamp: object) -> None:
            timestamp.version += 1
            timestamp.snapshot_meta = meta_file(forged)

        forged = forge(project, "timestamp", new_snapshot, project.keys)
    server.answer("metadata/timestamp.json", forged)
    goes_on(store, walk, "fast-forward", caplog)
    server.tricks.clear()
    assert get(store, project.publish("2.0.0")).exists()


def test_after_a_fast_forward_staff_rotate_the_online_keys_and_hosts_recover(
    project: Project,
    server: HostileServer,
    store: BundleStore,
    walk: Published,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    get(store, walk)

    def far_ahead(timestamp: object) -> None:
        timestamp.version += 5 * 86400  # as far as a clock may be off

    server.answer("metadata/timestamp.json", forge(project, "timestamp", far_ahead, project.keys))
    get(store, walk)
    server.tricks.clear()  # the honest server is back, and its versions look old now
    newer = project.publish("2.0.0")
    with refused("rollback", caplog):
        get(store, newer)
    rotate(project, "timestamp", tmp_path / "fresh")
    with host(tmp_path / "host", server.url) as restarted:
        assert get(restarted, newer).read_bytes() == script("2.0.0")


def rotate(project: Project, role: Role, folder: Path) -> None:
    """Replace the role's key by a new one, and sign with it from now on."""
    fresh = own_keys(folder)
    trusted = project.repository.metadata.root()
    dropped = list(trusted.signed.roles[role].keyids)
    root = propose_root(trusted, role, add=[fresh.of(role)[0].public_key], drop=dropped)
    sign(root, project.keys.of("root"))
    project.keys = type(project.keys)(signers={**project.keys.signers, role: fresh.of(role)})
    project.repository.install_root(root, project.keys)


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
def test_a_key_changed_during_a_refresh_is_no_attack(
    project: Project, server: HostileServer, store: BundleStore, role: Role, tmp_path: Path
) -> None:
    """The root has been read when staff change the key of a file that comes after it."""

    def change_key(request: BaseHTTPRequestHandler) -> None:
        server.tricks.clear()
        rotate(project, role, tmp_path / "fresh")
        send(request, (project.metadata / "timestamp.json").read_bytes())

    newer = project.publish("2.0.0")
    server.tricks["metadata/timestamp.json"] = change_key
    assert get(store, newer).read_bytes() == script("2.0.0")


# Indefinite freeze


def test_withheld_metadata_is_detected_when_the_last_metadata_expires(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    project = Project(
        tmp_path / "project", clock=at(utc_now() - TIMESTAMP_LIFETIME + timedelta(seconds=12))
    )
    walk = project.publish()
    with served(project) as server, host(tmp_path / "host", server.url) as store:
        get(store, walk)
        deadline = time.monotonic() + 60
        while project.repository.expiries()["timestamp"] > utc_now():
            assert time.monotonic() < deadline
            time.sleep(0.5)
        with refused("freeze", caplog):
            get(store, walk)
        accepted = store.fetch(walk.name, walk.version, walk.sha256, accepted=True)
        assert accepted.read_bytes() == script()  # a task in the journal is still run
        with refused("freeze", caplog):
            store.fetch(walk.name, "2.0.0", walk.sha256, accepted=True)


def test_the_online_keys_cannot_freeze_beyond_what_staff_signed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    project = Project(
        tmp_path / "project", clock=at(utc_now() - TARGETS_LIFETIME - timedelta(days=1))
    )
    walk = project.publish()
    with served(project) as server, host(tmp_path / "host", server.url) as store:
        project.repository._clock = utc_now
        project.repository.refresh_online(force=True)
        with refused("freeze", caplog):
            get(store, walk)


# Endless data


@pytest.mark.parametrize("path", ["2.root.json", "timestamp.json", "snapshot.json"])
def test_endless_metadata_is_cut_off(
    project: Project,
    server: HostileServer,
    store: BundleStore,
    walk: Published,
    path: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    get(store, walk)
    project.publish("2.0.0")
    name = project.snapshot_name if path == "snapshot.json" else path
    server.tricks[f"metadata/{name}"] = endless
    goes_on(store, walk, "endless data", caplog)


def test_an_endless_bundle_is_cut_off(
    server: HostileServer, store: BundleStore, walk: Published, caplog: pytest.LogCaptureFixture
) -> None:
    server.tricks[f"targets/{walk.sha256}.short_walk@1.0.0.py"] = endless
    with refused("endless data", caplog):
        get(store, walk)


def test_compression_cannot_make_a_small_answer_endless(
    server: HostileServer, store: BundleStore, walk: Published, caplog: pytest.LogCaptureFixture
) -> None:
    def bomb(request: object) -> None:
        request.send_response(200)
        request.send_header("Content-Encoding", "gzip")
        request.end_headers()
        request.wfile.write(b"\x1f\x8b" + b"\0" * (walk.length - 2))

    server.tricks[f"targets/{walk.sha256}.short_walk@1.0.0.py"] = bomb
    with refused("wrong software", caplog):
        get(store, walk)


def test_even_a_signed_bundle_is_bounded(
    project: Project, store: BundleStore, walk: Published, caplog: pytest.LogCaptureFixture
) -> None:
    targets = project.repository.metadata.targets()
    targets.signed.targets["short_walk@1.0.0.py"].length = SCRIPT_BYTES_MAX + 1
    targets.signed.version += 1
    sign(targets, project.keys.of("targets"))
    project.repository.install_targets(targets, [])
    with refused("endless data", caplog):
        get(store, walk)


def test_a_download_that_would_never_end_is_given_up(
    project: Project,
    server: HostileServer,
    walk: Published,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def trickle(request: object) -> None:
        request.send_response(200)
        request.end_headers()
        while True:
            request.wfile.write(b" ")
            time.sleep(0.05)

    server.tricks["metadata/timestamp.json"] = trickle
    with (
        host(tmp_path / "host", server.url, file_seconds_max=1.0) as store,
        refused("slow retrieval", caplog),
    ):
        get(store, walk)

    def silent(request: object) -> None:
        request.send_response(200)
        request.end_headers()
        time.sleep(5)

    server.tricks["metadata/timestamp.json"] = silent
    with (
        host(tmp_path / "other", server.url, silence_seconds_max=0.5) as store,
        refused("slow retrieval", caplog),
    ):
        get(store, walk)


# Extraneous dependencies


def test_a_bundle_with_other_dependencies_is_refused(
    project: Project, store: BundleStore, caplog: pytest.LogCaptureFixture
) -> None:
    """Signed with the real targets key, past the checks of publish."""
    source = script("2.0.0").replace(b'["numpy"]', b'["numpy", "requests"]')
    targets = project.repository.metadata.targets()
    file = type(targets.signed.targets["short_walk@1.0.0.py"]).from_data(
        "short_walk@2.0.0.py", source, ["sha256"]
    )
    targets.signed.targets[file.path] = file
    targets.signed.version += 1
    sign(targets, project.keys.of("targets"))
    sha256 = file.hashes["sha256"]
    (project.folder / "bundles" / "targets" / f"{sha256}.{file.path}").write_bytes(source)
    project.repository.install_targets(targets, [])
    with refused("extraneous dependencies", caplog):
        store.manifest("short_walk", "2.0.0", sha256)


# Mix-and-match


def test_an_old_snapshot_under_a_new_name_is_refused(
    project: Project,
    server: HostileServer,
    store: BundleStore,
    walk: Published,
    caplog: pytest.LogCaptureFixture,
) -> None:
    get(store, walk)
    old = (project.metadata / project.snapshot_name).read_bytes()
    project.publish("2.0.0")
    server.answer(f"metadata/{project.snapshot_name}", old)
    goes_on(store, walk, "mix-and-match", caplog)


def test_old_targets_with_a_new_snapshot_are_refused(
    project: Project,
    server: HostileServer,
    store: BundleStore,
    walk: Published,
    caplog: pytest.LogCaptureFixture,
) -> None:
    get(store, walk)
    old = (project.metadata / "2.targets.json").read_bytes()
    project.publish("2.0.0")
    server.answer("metadata/3.targets.json", old)
    goes_on(store, walk, "mix-and-match", caplog)


# Malicious mirror


@pytest.mark.parametrize("status", [301, 403, 404, 429, 500, 503])
def test_a_withholding_mirror_does_not_affect_cached_bundles(
    server: HostileServer,
    store: BundleStore,
    walk: Published,
    status: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    get(store, walk)

    def withhold(request: object) -> None:
        request.send_response(status)
        request.send_header("Location", "http://192.0.2.1/")
        request.send_header("Content-Length", "0")
        request.end_headers()

    server.everywhere = withhold
    goes_on(store, walk, "unreachable", caplog)


def test_a_mirror_that_hangs_up_or_sends_garbage_does_no_harm(
    server: HostileServer, store: BundleStore, walk: Published, caplog: pytest.LogCaptureFixture
) -> None:
    get(store, walk)
    server.everywhere = lambda request: request.connection.close()
    goes_on(store, walk, "unreachable", caplog)
    server.everywhere = lambda request: send(request, b"<html>your hotel welcomes you</html>")
    goes_on(store, walk, "malformed metadata", caplog)
    server.everywhere = lambda request: send(request, b"[" * 200_000)
    goes_on(store, walk, "malformed metadata", caplog)
    server.everywhere = None
    caplog.clear()
    assert get(store, walk).exists()
    assert caplog.text == ""


def test_a_restarted_agent_without_a_server_runs_its_cached_bundles(
    project: Project, walk: Published, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with served(project) as server, host(tmp_path / "host", server.url) as store:
        get(store, walk)
        url = server.url
    with host(tmp_path / "host", url) as restarted:
        goes_on(restarted, walk, "unreachable", caplog)


def test_withdrawn_sources_leave_the_cache(
    project: Project, store: BundleStore, walk: Published
) -> None:
    old = get(store, walk)
    project.repository.withdraw(walk.name, walk.version, project.keys)
    newer = project.publish("2.0.0")
    get(store, newer)
    assert not old.exists()
    shutil.rmtree(store.folder / "sources")
    assert get(store, newer).exists()


def test_lost_metadata_while_the_server_is_away_is_refused_until_later(
    server: HostileServer, store: BundleStore, walk: Published
) -> None:
    get(store, walk)
    server.everywhere = lambda request: request.send_error(503)
    (store.folder / "metadata" / "targets.json").unlink()
    (store.folder / "metadata" / "timestamp.json").unlink()
    restarted = BundleStore(store.folder, server.url, httpx.Client(trust_env=False))
    with pytest.raises(BundleRefused) as caught:
        restarted.fetch(walk.name, walk.version, walk.sha256, accepted=True)
    assert caught.value.temporary


@pytest.mark.parametrize("damage", ["empty", "garbage", "half"])
def test_damaged_metadata_on_disk_is_fetched_again(
    store: BundleStore, tmp_path: Path, server: HostileServer, walk: Published, damage: str
) -> None:
    """After a power cut, every stored file except the pinned root may be damaged."""
    get(store, walk)
    folder = tmp_path / "host"
    pin = folder / "pinned.root.json"
    torn = [p for p in folder.rglob("*") if p.is_file() and not p.is_symlink() and p != pin]
    assert len(torn) >= 5
    for path in torn:
        data = path.read_bytes()
        kept = {"empty": b"", "garbage": b"\x00\xff" * 500, "half": data[: len(data) // 2]}
        path.write_bytes(kept[damage])
    with host(folder, server.url) as again:
        assert get(again, walk).read_bytes()


def test_files_are_flushed_to_disk_before_they_are_renamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: HostileServer
) -> None:
    """Otherwise a power cut could leave an empty pinned root, and the host would refuse all."""
    synced: list[str] = []
    fsync, replace = os.fsync, os.replace

    def noting(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    def checking(source: Path, to: Path) -> None:
        if ".partial" in str(source):
            assert str(source) in synced
        replace(source, to)

    monkeypatch.setattr(os, "fsync", noting)
    monkeypatch.setattr(os, "replace", checking)
    with host(tmp_path / "other", server.url):
        assert any("pinned.root.json" in path for path in synced)
