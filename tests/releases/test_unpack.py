"""Archives on the disk: what is refused, what an interruption leaves, what is noticed later."""

from __future__ import annotations

import os
import stat
import zipfile
from pathlib import Path

import pytest

from axiom_client.decide.update import Release, UpdateRecord, stage
from axiom_client.releases import unpack as module
from axiom_client.releases.folder import ReleaseFolder
from axiom_client.releases.unpack import StageProblem, check_space, unpack
from tests.support.release_archive import write_zip

RELEASE = Release(version="0.3.0", sha256="0" * 64, length=1)
FILES = {"axiom_client/__init__.py": b"", "axiom_client/__main__.py": b"print('new')\n"}


@pytest.fixture
def folder(tmp_path: Path) -> ReleaseFolder:
    return ReleaseFolder(tmp_path / "releases")


def unpacked(folder: ReleaseFolder, tmp_path: Path, files: dict[str, bytes]) -> None:
    unpack(folder, write_zip(tmp_path / "a.zip", files), RELEASE)


def left(folder: ReleaseFolder) -> list[str]:
    return sorted(path.name for path in (folder.folder / "versions").iterdir())


def test_a_release_is_complete_and_only_its_owners(folder: ReleaseFolder, tmp_path: Path) -> None:
    unpacked(folder, tmp_path, FILES)
    assert folder.check("0.3.0") == ""
    assert folder.present() == ["0.3.0"]
    main = folder.libraries("0.3.0") / "axiom_client" / "__main__.py"
    assert main.read_bytes() == FILES["axiom_client/__main__.py"]
    assert stat.S_IMODE(main.stat().st_mode) == 0o600
    unpacked(folder, tmp_path, {**FILES, "more.py": b""})  # once more, over what is there
    assert folder.check("0.3.0") == ""
    assert left(folder) == ["0.3.0"]


@pytest.mark.parametrize(
    "name",
    ["../up.py", "a/../../up.py", "/etc/up.py", "a\\..\\up.py", "C:up.py", "a\nb.py",
     "axiom_client/__pycache__/x.pyc"],
)  # fmt: skip
def test_names_that_lead_elsewhere_are_refused(
    folder: ReleaseFolder, tmp_path: Path, name: str
) -> None:
    with pytest.raises(StageProblem, match="has a file named"):
        unpacked(folder, tmp_path, {**FILES, name: b""})
    assert left(folder) == []


def test_links_are_refused(folder: ReleaseFolder, tmp_path: Path) -> None:
    link = zipfile.ZipInfo("axiom_client/link.py")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(StageProblem, match="has a file named"):
        unpack(folder, tmp_path / "a.zip", RELEASE)


def test_two_files_of_one_name_are_refused(folder: ReleaseFolder, tmp_path: Path) -> None:
    with pytest.raises(StageProblem, match="two files"):
        unpacked(folder, tmp_path, {"a.py": b"", "A.py": b""})


def test_a_damaged_archive_leaves_nothing(folder: ReleaseFolder, tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "a.zip", {**FILES, "big.py": b"x = 1\n" * 100})
    data = bytearray(archive.read_bytes())
    at = data.index(b"x = 1\n")
    data[at : at + 5] = b"x = 2"  # the checksum in the archive does not fit any more
    archive.write_bytes(data)
    with pytest.raises(StageProblem, match="cannot be unpacked"):
        unpack(folder, archive, RELEASE)
    assert left(folder) == []


def test_a_small_archive_of_much_is_refused(
    folder: ReleaseFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "UNPACKED_BYTES_MAX", 1000)
    with pytest.raises(StageProblem, match="more than a release may have"):
        unpacked(folder, tmp_path, {"zeros.py": b"\0" * 1001})


def test_a_disk_without_room_is_noticed_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(StageProblem, match="MB are free"):
        check_space(tmp_path, 1 << 60)


def test_a_disk_that_fills_up_in_between_leaves_nothing(
    folder: ReleaseFolder, tmp_path: Path
) -> None:
    """The kernel's own refusal: no file of this process may be larger than 4 kB."""
    import resource
    import signal

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    archive = write_zip(tmp_path / "a.zip", {**FILES, "large.py": b"#" * 100_000})
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(StageProblem, match="the disk is full"):
            unpack(folder, archive, RELEASE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert left(folder) == []


def test_what_an_interrupted_attempt_left_is_deleted(folder: ReleaseFolder, tmp_path: Path) -> None:
    partial = folder.folder / "versions" / "0.3.0.partial"
    partial.mkdir(parents=True)
    (partial / "half.py").write_text("x = ")
    assert folder.present() == []
    unpacked(folder, tmp_path, FILES)
    assert left(folder) == ["0.3.0"]


def test_changes_after_unpacking_are_noticed(folder: ReleaseFolder, tmp_path: Path) -> None:
    unpacked(folder, tmp_path, FILES)
    library = folder.libraries("0.3.0")
    main = library / "axiom_client" / "__main__.py"
    caches = library / "axiom_client" / "__pycache__"
    caches.mkdir()
    (caches / "__main__.cpython-311.pyc").write_bytes(b"")  # as Python does
    assert folder.check("0.3.0") == ""

    main.write_bytes(b"print('old')\n")  # of the same length
    assert "was changed" in folder.check("0.3.0")
    main.unlink()
    assert "is missing" in folder.check("0.3.0")
    main.symlink_to("/dev/null")
    assert "neither a file nor a folder" in folder.check("0.3.0")
    main.unlink()
    main.write_bytes(FILES["axiom_client/__main__.py"])
    main.chmod(0o666)
    assert "can be written by other users" in folder.check("0.3.0")
    main.chmod(0o600)
    (library / "sitecustomize.py").write_bytes(b"")
    assert "was added" in folder.check("0.3.0")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_files_of_another_user_are_not_run(folder: ReleaseFolder, tmp_path: Path) -> None:
    unpacked(folder, tmp_path, FILES)
    os.chown(folder.libraries("0.3.0") / "axiom_client", 1, 1)
    assert "belongs to another user" in folder.check("0.3.0")


def test_the_record_is_replaced_whole_and_a_damaged_one_is_none(folder: ReleaseFolder) -> None:
    assert folder.record() == UpdateRecord()
    folder.change_record(lambda record: stage(record, "0.3.0"))
    assert folder.record().staged == "0.3.0"
    (folder.folder / "record.json").write_bytes(b'{"staged": ')
    assert folder.record() == UpdateRecord()
