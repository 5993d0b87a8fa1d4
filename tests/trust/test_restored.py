"""A project that is restored from a backup, whose hosts have seen newer signatures than it has."""

from __future__ import annotations

import asyncio
import logging
import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest

from axiom_client.project.bundles import BundleRefused, BundleStore
from axiom_server.config import Config
from axiom_server.maintenance.rounds import Maintenance
from axiom_server.trust.metadata import VERSIONS_SKIPPED_MAX, BundlesError, utc_now
from axiom_server.trust.repository import Published, Repository
from axiom_server.trust.signing_request import SigningRequest, request_targets
from tests.support.processes import wait_for
from tests.trust.hostile import HostileServer, Project, at, script


def restore(project: Project, backup: Path) -> None:
    """Put the backup in the place of the bundles, as five minutes of work do."""
    shutil.rmtree(project.folder / "bundles")
    backup.rename(project.folder / "bundles")
    clock = at(utc_now() + timedelta(minutes=5))
    project.repository = Repository(project.folder / "bundles", clock=clock)
    project.repository.metadata.leave_versions_free()
    project.repository.refresh_online(force=True)


@pytest.fixture
def restored(
    project: Project, server: HostileServer, store: BundleStore, walk: Published, tmp_path: Path
) -> Published:
    """A version that was published and fetched after the backup, and is lost."""
    backup = project.copy(tmp_path / "backup")
    lost = [project.publish(version) for version in ("2.0.0", "3.0.0")][-1]
    store.fetch(lost.name, lost.version, lost.sha256)
    restore(project, backup)
    return lost


def request(project: Project, **change: Any) -> SigningRequest:
    metadata = project.repository.metadata
    targets = project.repository.propose(**change).targets
    assert targets is not None
    return request_targets(metadata.root(), metadata.targets(), targets, change.get("publish", ()))


def test_nothing_older_is_followed_and_the_log_says_what_staff_are_to_do(
    project: Project, restored: Published, store: BundleStore, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), pytest.raises(BundleRefused) as caught:
        store.fetch("short_walk", "9.0.0", "0" * 64)
    assert caught.value.attack == "rollback"
    assert "axiom-server keys renew" in caplog.text


def test_staff_sign_again_and_hosts_follow(
    project: Project, restored: Published, store: BundleStore, walk: Published
) -> None:
    project.repository.extend(project.keys)
    newer = project.publish("4.0.0")
    assert store.fetch(newer.name, newer.version, newer.sha256).exists()
    version = project.repository.metadata.targets().signed.version
    project.publish("5.0.0")
    assert project.repository.metadata.targets().signed.version == version + 1


def test_a_version_published_after_the_restore_is_followed(
    project: Project, restored: Published, store: BundleStore
) -> None:
    newer = project.publish("4.0.0")
    assert store.fetch(newer.name, newer.version, newer.sha256).exists()


def test_who_signs_elsewhere_is_told_of_the_skipped_versions(
    project: Project, restored: Published, store: BundleStore
) -> None:
    made = request(project, publish=[script("4.0.0")])
    assert any(line.startswith("skip ") for line in made.changes())
    signed = made.signed_by(project.keys.of("targets"))
    project.repository.install_targets(signed.signed_targets(), [script("4.0.0")])
    assert not any(line.startswith("skip ") for line in request(project, extend=True).changes())


def test_a_request_that_skips_more_is_refused(project: Project, walk: Published) -> None:
    metadata = project.repository.metadata
    targets = project.repository.propose(extend=True).targets
    assert targets is not None
    targets.signed.version += VERSIONS_SKIPPED_MAX
    made = request_targets(metadata.root(), metadata.targets(), targets, ())
    with pytest.raises(BundlesError, match="does not follow"):
        made.changes()


def test_a_server_that_starts_signs_its_own_files_at_once(
    project: Project, walk: Published
) -> None:
    """Restored files are not due to be signed again, and older than what hosts have seen."""
    before = project.repository.metadata.timestamp().signed.version
    assert not project.repository.refresh_online()
    maintenance = Maintenance(
        pool=cast(Any, None), config=Config(), bundles=project.repository
    )  # its first round, which needs a database, comes after seconds

    def signed() -> bool:
        return project.repository.metadata.timestamp().signed.version > before

    async def inside() -> None:
        async with maintenance.running():
            await asyncio.to_thread(wait_for, "new signatures", signed)

    asyncio.run(inside())
