"""Releases of axiom-client: whose keys may sign them, and what a hostile server can do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from tuf.api.metadata import Metadata, Targets

from axiom_client.project.fetching import HttpFetcher
from axiom_client.project.refusal import Attack, BundleRefused
from axiom_client.project.releases import SignedReleases
from axiom_protocol.release import RELEASES
from axiom_server.errors import ReleaseMalformed
from axiom_server.publish.release import make_key
from axiom_server.trust.keys import Keys, load_keys, read_public_key
from axiom_server.trust.metadata import BundlesError, sign, utc_now
from axiom_server.trust.release_archive import Archive, read_archive
from axiom_server.trust.releases import RELEASES_LIFETIME, delegation, name_keys
from axiom_server.trust.signing_request import (
    request_releases,
    request_root,
    request_targets,
)
from tests.support.release_archive import write_zip
from tests.trust.hostile import HostileServer, Project, at, served


def archive(folder: Path, version: str = "0.3.0", remark: str = "") -> Archive:
    """A small wheel."""
    info = f"axiom_client-{version}.dist-info"
    files = {
        "axiom_client/__main__.py": remark.encode(),
        "axiom_client/agent/journal.py": b"SCHEMA_VERSION = 1\n",
        "axiom_protocol/__init__.py": f'__version__ = "{version}"\n'.encode(),
        f"{info}/METADATA": b"Name: axiom-client\nRequires-Python: >=3.11\n",
        f"{info}/WHEEL": b"Tag: py3-none-any\n",
    }
    return read_archive(write_zip(folder / "a.whl", files).read_bytes())


class Staff:
    """A project whose staff release axiom-client with a key of its own."""

    def __init__(self, project: Project, folder: Path) -> None:
        self.project, self.repository = project, project.repository
        public = make_key(project.folder / "keys", None)
        self.keys = load_keys(project.folder / "keys", roles=("root", "targets", RELEASES))
        online = self.keys.merged(project.keys)
        root = name_keys(self.repository.metadata.root(), [read_public_key(public)], 1)
        sign(root, self.keys.of("root"))
        self.repository.install_root(root, online)
        targets = self.repository.propose_delegation()
        assert targets is not None
        sign(targets, self.keys.of("targets"))
        self.repository.install_targets(targets, [])
        self.folder = folder

    def release(self, version: str, keys: Keys | None = None) -> None:
        self.install(self.proposed(version), keys)

    def proposed(self, version: str) -> Metadata[Targets]:
        added = archive(self.folder, version)
        self.repository.keep_archive(added)
        proposed = self.repository.propose_releases(add=[added])
        assert proposed is not None
        return proposed

    def install(self, proposed: Metadata[Targets], keys: Keys | None = None) -> None:
        sign(proposed, (keys or self.keys).of(RELEASES))
        self.repository.install_releases(proposed)


@pytest.fixture
def staff(project: Project, tmp_path: Path) -> Staff:
    return Staff(project, tmp_path)


class Agent:
    """What an agent does: it pinned the project's first root, and asks each time anew."""

    def __init__(self, folder: Path, url: str, client: httpx.Client, root: bytes) -> None:
        self._root = root
        self.signed = SignedReleases(folder, url, HttpFetcher(client))

    def versions(self) -> list[str]:
        return sorted(release.version for release in self.signed.find(self._root))

    def download(self, to: Path) -> bytes:
        found = self.signed.find(self._root)
        self.signed.download(found[max(found, key=lambda r: r.version)], to)
        return to.read_bytes()


@contextmanager
def agent(project: Project, folder: Path) -> Iterator[tuple[Agent, HostileServer]]:
    with served(project) as server, httpx.Client(trust_env=False) as client:
        first = (project.metadata / "1.root.json").read_bytes()
        yield Agent(folder / "host", server.url, client, first), server


def thieves_key(folder: Path) -> Path:
    folder.mkdir()
    return make_key(folder, None)


@contextmanager
def refused(attack: Attack) -> Iterator[None]:
    with pytest.raises(BundleRefused) as caught:
        yield
    assert caught.value.attack == attack


def test_a_release_arrives_as_it_was_signed(staff: Staff, tmp_path: Path) -> None:
    with agent(staff.project, tmp_path) as (host, _):
        assert host.versions() == []
        staff.release("0.3.0")
        staff.release("0.3.1")
        assert host.versions() == ["0.3.0", "0.3.1"]
        assert host.download(tmp_path / "got") == archive(tmp_path, "0.3.1").data
        staff.project.publish()  # experiments and releases do not disturb each other
        assert host.versions() == ["0.3.0", "0.3.1"]


def test_a_project_without_the_role_has_no_releases(project: Project, tmp_path: Path) -> None:
    project.publish()
    with agent(project, tmp_path) as (host, _):
        assert host.versions() == []


def test_the_key_of_experiments_cannot_release_an_agent(staff: Staff, tmp_path: Path) -> None:
    """Whoever has the targets keys delegates the role to a key of his own."""
    staff.release("0.3.0")
    own = thieves_key(tmp_path / "thief")
    thief = load_keys(tmp_path / "thief", roles=(RELEASES,))
    root = name_keys(staff.repository.metadata.root(), [read_public_key(own)], 1)
    targets = staff.repository.metadata.targets()
    targets.signed.delegations = delegation(root.signed)
    targets.signed.version += 1
    targets.signatures.clear()
    sign(targets, staff.keys.of("targets"))
    staff.repository.install_targets(targets, [])
    with agent(staff.project, tmp_path) as (host, _), refused("arbitrary software"):
        host.versions()
    with pytest.raises(BundlesError, match="do not delegate to the keys that the root names"):
        staff.release("0.4.0", thief)


def test_the_servers_keys_cannot_release_an_agent(staff: Staff, tmp_path: Path) -> None:
    """A server that is taken over has the online keys, and signs releases with a key it made."""
    staff.release("0.3.0")
    thieves_key(tmp_path / "thief")
    proposed = staff.proposed("0.4.0")
    sign(proposed, load_keys(tmp_path / "thief", roles=(RELEASES,)).of(RELEASES))
    meta = {f"{RELEASES}.json": staff.repository.metadata.write_releases(proposed)}
    staff.repository._sign_snapshot(
        meta, staff.project.keys, staff.repository.metadata.snapshot().signed
    )
    with agent(staff.project, tmp_path) as (host, _), refused("arbitrary software"):
        host.versions()


def test_other_bytes_of_a_release_are_refused_and_leave_nothing(
    staff: Staff, tmp_path: Path
) -> None:
    staff.release("0.3.0")
    with agent(staff.project, tmp_path) as (host, server):
        [file] = staff.repository.metadata.releases().signed.targets.values()  # type: ignore[union-attr]
        path = f"targets/{file.hashes['sha256']}.{file.path}"
        server.answer(path, archive(tmp_path, remark="# x").data)
        with pytest.raises(BundleRefused):
            host.download(tmp_path / "got")
        assert not (tmp_path / "got").exists()


def test_a_list_of_releases_that_expired_is_a_freeze(staff: Staff, tmp_path: Path) -> None:
    staff.repository._clock = at(utc_now() - RELEASES_LIFETIME - timedelta(days=1))
    proposed = staff.proposed("0.3.0")
    staff.repository._clock = utc_now
    staff.install(proposed)
    with agent(staff.project, tmp_path) as (host, _), refused("freeze"):
        host.versions()


def test_an_older_list_is_a_rollback(staff: Staff, tmp_path: Path) -> None:
    staff.release("0.3.0")
    older = staff.repository.metadata.snapshot().signed.meta[f"{RELEASES}.json"]
    staff.release("0.3.1")
    with agent(staff.project, tmp_path) as (host, _):
        assert host.versions() == ["0.3.0", "0.3.1"]
        snapshot = staff.repository.metadata.snapshot().signed
        staff.repository._sign_snapshot({f"{RELEASES}.json": older}, staff.project.keys, snapshot)
        with refused("rollback"):
            host.versions()


def test_a_withdrawn_release_is_gone(staff: Staff, tmp_path: Path) -> None:
    staff.release("0.3.0")
    staff.release("0.3.1")
    proposed = staff.repository.propose_releases(withdraw="0.3.1")
    assert proposed is not None
    staff.install(proposed)
    with agent(staff.project, tmp_path) as (host, _):
        assert host.versions() == ["0.3.0"]


def test_a_released_version_never_changes_and_none_follows_that_is_older(
    staff: Staff, tmp_path: Path
) -> None:
    staff.release("0.3.0")
    assert staff.repository.propose_releases(add=[archive(tmp_path)]) is None  # the same again
    with pytest.raises(ReleaseMalformed, match="never changes"):
        staff.repository.propose_releases(add=[archive(tmp_path, remark="# x")])
    with pytest.raises(ReleaseMalformed, match=r"no host goes back to 0\.2\.9"):
        staff.repository.propose_releases(add=[archive(tmp_path, "0.2.9")])


@pytest.mark.parametrize(
    ("data", "problem"),
    [(b"no zip", "not a zip file"), (b"", "not a zip file")],
)
def test_what_is_no_archive_is_refused(data: bytes, problem: str) -> None:
    with pytest.raises(ReleaseMalformed, match=problem):
        read_archive(data)


@pytest.mark.parametrize("version", ["0.3", "0.3.0rc1", "1.2.3.4"])
def test_a_version_that_hosts_could_not_compare_is_refused(tmp_path: Path, version: str) -> None:
    with pytest.raises(ReleaseMalformed, match="is no version of a release"):
        archive(tmp_path, version)


# --- signing elsewhere ----------------------------------------------------------------------------


def test_requests_show_all_that_is_signed(staff: Staff, tmp_path: Path) -> None:
    metadata = staff.repository.metadata
    proposed = staff.proposed("0.3.0")
    request = request_releases(metadata.root(), None, proposed)
    release, valid = request.changes()
    assert release.startswith("release axiom-client 0.3.0 for any, Python 3.11 (")
    assert valid.startswith("valid until")
    assert request.missing_signatures() == 1
    signed = request.signed_by(staff.keys.of(RELEASES))
    assert signed.missing_signatures() == 0
    staff.repository.install_releases(signed.signed_targets())
    assert [facts.version for facts in staff.repository.releases().values()] == ["0.3.0"]


def test_a_request_that_changes_a_release_is_refused(staff: Staff) -> None:
    staff.release("0.3.0")
    current = staff.repository.metadata.releases()
    proposed = staff.proposed("0.3.1")
    for file in proposed.signed.targets.values():
        file.hashes["sha256"] = "0" * 64
    request = request_releases(staff.repository.metadata.root(), current, proposed)
    with pytest.raises(BundlesError, match="must not change"):
        request.changes()


def test_requests_for_the_roots_keys_and_the_delegation_say_what_they_allow(
    project: Project, tmp_path: Path
) -> None:
    metadata = project.repository.metadata
    public = read_public_key(make_key(tmp_path, None))
    root = name_keys(metadata.root(), [public], 1)
    lines = request_root(metadata.root(), root).changes()
    assert f"trust the {RELEASES} key {public.keyid}" in lines[0]
    assert "outside of the tasks' sandbox" in lines[0]
    targets = metadata.targets()
    targets.signed.delegations = delegation(root.signed)
    targets.signed.version += 1
    request = request_targets(metadata.root(), metadata.targets(), targets, [])
    with pytest.raises(BundlesError, match="keys that the root does not name"):
        request.changes()  # that root is not in effect yet


def test_a_key_of_another_role_may_not_release(project: Project) -> None:
    root = project.repository.metadata.root()
    shared = root.signed.keys[root.signed.roles["targets"].keyids[0]]
    with pytest.raises(BundlesError, match="needs keys of its own"):
        name_keys(root, [shared], 1)
    with pytest.raises(BundlesError, match="threshold of 2"):
        name_keys(root, [], 2)
