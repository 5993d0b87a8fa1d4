"""Measuring and deleting a task's folder as on Windows: locked files, junctions."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from axiom_client.run import windows_folder
from axiom_client.run.folder_usage import DEPTH_MAX, FILES_MAX


def tree(folder: Path, depth: int) -> Path:
    inner = folder.joinpath(*["d"] * depth)
    inner.mkdir(parents=True)
    (inner / "data.bin").write_bytes(bytes(1000))
    return folder


def remove(folder: Path) -> None:
    for _ in windows_folder.removal(folder):
        pass


def test_sizes_and_files_are_counted(tmp_path: Path) -> None:
    usage = windows_folder.measure(str(tree(tmp_path / "task", 3)))
    assert (usage.files, usage.problem) == (4, "")
    assert usage.size_bytes >= 1000
    assert windows_folder.measure(str(tmp_path / "none")).files == 0


def test_too_deep_and_too_many(tmp_path: Path) -> None:
    deep = windows_folder.measure(str(tree(tmp_path / "deep", DEPTH_MAX)))
    assert "nested" in deep.problem
    many = tmp_path / "many"
    many.mkdir()
    for number in range(FILES_MAX + 5):
        (many / str(number)).touch()
    assert windows_folder.measure(str(many)).files == FILES_MAX + 1


def test_removal_of_everything_also_what_is_read_only(tmp_path: Path) -> None:
    folder = tree(tmp_path / "task", 5)
    (folder / "d" / "fixed").write_text("x")
    (folder / "d" / "fixed").chmod(0o400)
    remove(folder)
    assert not folder.exists()
    file = tmp_path / "file"
    file.write_text("x")
    remove(file)
    assert not file.exists()


def test_a_file_that_a_scanner_holds_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tree(tmp_path / "task", 1)
    held = [3]  # attempts that Defender's lock still refuses
    real = os.unlink

    def unlink(path: str) -> None:
        if held[0]:
            held[0] -= 1
            raise PermissionError(13, "being used by another process", path, 32)
        real(path)

    monkeypatch.setattr(windows_folder.os, "unlink", unlink)
    monkeypatch.setattr(windows_folder, "TRY_SECONDS", 0.0)
    remove(folder)
    assert held == [0]
    assert not folder.exists()


def test_a_file_that_stays_held_is_an_error_not_a_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tree(tmp_path / "task", 1)
    tries: list[str] = []

    def unlink(path: str) -> None:
        tries.append(path)
        raise PermissionError(13, "being used by another process", path, 32)

    monkeypatch.setattr(windows_folder.os, "unlink", unlink)
    monkeypatch.setattr(windows_folder, "TRY_SECONDS", 0.0)
    with pytest.raises(PermissionError):
        remove(folder)
    assert len(tries) == windows_folder.TRIES


def test_junctions_lead_elsewhere() -> None:
    """FILE_ATTRIBUTE_REPARSE_POINT is 0x400; a plain folder has FILE_ATTRIBUTE_DIRECTORY, 0x10."""
    junction: Any = SimpleNamespace(st_file_attributes=0x410)
    folder: Any = SimpleNamespace(st_file_attributes=0x10)
    assert windows_folder._leads_elsewhere(junction)
    assert not windows_folder._leads_elsewhere(folder)


def test_junctions_are_neither_counted_nor_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "kept"
    tree(kept, 1)
    folder = tmp_path / "task"
    (folder / "junction").mkdir(parents=True)
    number = (folder / "junction").lstat().st_ino
    monkeypatch.setattr(windows_folder, "_leads_elsewhere", lambda status: status.st_ino == number)
    assert windows_folder.measure(str(folder)).files == 1
    remove(folder)
    assert not folder.exists()
    assert (kept / "d" / "data.bin").exists()
