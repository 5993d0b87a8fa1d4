"""Backups: nobody else reads one, not even while it is written, and a restored key is private."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from axiom_server.errors import FileUnreadable
from axiom_server.project_folder import ProjectFolder, initialise
from axiom_server.transfer.backup import backup, begin_epoch, restore
from axiom_server.trust.metadata import VERSIONS_SKIPPED_MAX


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> ProjectFolder:
    return initialise(tmp_path_factory.mktemp("backup") / "project", "T", None)


@pytest.fixture
def open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def others_may(path: Path) -> int:
    return path.lstat().st_mode & 0o077


@pytest.mark.usefixtures("open_umask")
def test_a_backup_is_private_from_its_first_byte(
    project: ProjectFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looked at before each member is written, where a link waits in the place of the file."""
    target, partial = tmp_path / "b.tar.gz", tmp_path / "b.tar.gz.partial"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.touch(mode=0o666)
    partial.symlink_to(elsewhere)
    seen = []
    add = tarfile.TarFile.add

    def watched(archive: tarfile.TarFile, name: Any, *more: Any, **options: Any) -> None:
        seen.append(others_may(partial))
        add(archive, name, *more, **options)
        archive.fileobj.flush()  # type: ignore[union-attr]
        seen.append(others_may(partial))

    monkeypatch.setattr(tarfile.TarFile, "add", watched)
    backup(project, target, with_keys=True)
    assert len(seen) >= 8
    assert set(seen) == {0}
    assert others_may(target) == 0
    assert elsewhere.read_bytes() == b""


@pytest.mark.usefixtures("open_umask")
def test_restored_keys_are_private(project: ProjectFolder, tmp_path: Path) -> None:
    backup(project, tmp_path / "b.tar.gz", with_keys=True)
    made = restore(tmp_path / "b.tar.gz", tmp_path / "restored")
    keys = list(made.keys.iterdir())
    assert {path.name for path in keys} == {path.name for path in project.keys.iterdir()}
    assert [others_may(path) for path in (made.keys, *keys)] == [0] * (len(keys) + 1)


def test_what_is_signed_after_a_restore_is_above_what_hosts_have_seen(
    project: ProjectFolder, tmp_path: Path
) -> None:
    backup(project, tmp_path / "b.tar.gz", with_keys=True)
    made = restore(tmp_path / "b.tar.gz", tmp_path / "restored")
    before = made.bundles.metadata.targets().signed.version
    assert made.bundles.metadata.next_targets_version() == before + VERSIONS_SKIPPED_MAX
    begin_epoch(project)
    assert project.bundles.metadata.next_targets_version() == before + VERSIONS_SKIPPED_MAX


def test_a_restore_that_was_interrupted_is_repeated(
    project: ProjectFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive, path = tmp_path / "b.tar.gz", tmp_path / "restored"
    backup(project, archive, with_keys=True)
    for point in ("begin_epoch", "os.replace"):  # the database is filled; the folder almost
        with monkeypatch.context() as patch:
            patch.setattr(f"axiom_server.transfer.backup.{point}", _die)
            with pytest.raises(KeyboardInterrupt):
                restore(archive, path)
        assert not (path / "project.toml").exists()
    restored = restore(archive, path)
    assert not any((path / "bundles" / part).exists() for part in ("bundles", "keys"))
    assert sorted(p.name for p in path.glob("restore*")) == []
    assert _epochs(restored) == _epochs(project) + 1


def test_a_database_with_tables_is_not_overwritten(project: ProjectFolder, tmp_path: Path) -> None:
    archive, path = tmp_path / "b.tar.gz", tmp_path / "restored"
    backup(project, archive, with_keys=False)
    with ProjectFolder(path).database(schema=False) as conninfo, psycopg.connect(conninfo) as other:
        other.execute("CREATE TABLE precious (x int)")
    with pytest.raises(FileUnreadable, match="holds tables already"):
        restore(archive, path)


def _epochs(folder: ProjectFolder) -> int:
    with folder.database() as conninfo, psycopg.connect(conninfo) as connection:
        found = connection.execute("SELECT count(*) FROM epochs").fetchone()
    assert found is not None
    return int(found[0])


def _die(*_arguments: object) -> None:
    raise KeyboardInterrupt
