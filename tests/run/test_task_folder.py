"""Folders that a task may leave: each is measured in bounded time, and each is removed."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from axiom_client.run import task_folder

pytestmark = pytest.mark.unit

ORDINARY_UID = 65_534


def nested(folder: Path, depth: int, name: str = "a") -> None:
    """Nested folders, deeper than the longest path that a system call takes."""
    descriptor = os.open(folder, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=descriptor)
        inner = os.open(name, os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = inner
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=descriptor))
    os.close(descriptor)


def closed(folder: Path, mode: int) -> None:
    """A folder with a hidden megabyte."""
    (folder / "x").mkdir()
    (folder / "x" / "big").write_bytes(bytes(1 << 20))
    (folder / "x" / "inner").mkdir(mode=0)
    (folder / "x").chmod(mode)


def odd_names(folder: Path) -> None:
    for name in (b"\xff\xfe", b"new\nline", b"-rf", b" ", b"x" * 255):
        os.mkdir(os.fsencode(folder) + b"/" + name)
        open(os.fsencode(folder) + b"/" + name + b"/f", "wb").close()


LEFT_BEHIND: dict[str, Callable[[Path], None]] = {
    "nothing": lambda folder: None,
    "1,100 nested folders": lambda folder: nested(folder, 1_100),
    "a path beyond PATH_MAX": lambda folder: nested(folder, 30, "b" * 200),
    "mode 000": lambda folder: closed(folder, 0o000),
    "mode 100": lambda folder: closed(folder, 0o100),
    "mode 300": lambda folder: closed(folder, 0o300),
    "mode 400": lambda folder: closed(folder, 0o400),
    "mode 500": lambda folder: closed(folder, 0o500),
    "odd names": odd_names,
    "a fifo": lambda folder: os.mkfifo(folder / "fifo"),
    "a link to elsewhere": lambda folder: (folder / "link").symlink_to(folder.parent),
}


@contextmanager
def ordinary_user(folder: Path) -> Iterator[None]:
    """Root may look into every folder, so it becomes another user, who owns ``folder``."""
    if os.geteuid() != 0:
        yield
        return
    subprocess.run(["chown", "-R", "--no-dereference", str(ORDINARY_UID), folder], check=True)
    os.seteuid(ORDINARY_UID)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture(params=LEFT_BEHIND.values(), ids=LEFT_BEHIND.keys())
def folder(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """A task's folder, relative to the current one: another user may not pass those above it."""
    (tmp_path / "7").mkdir()
    request.param(tmp_path / "7")
    (tmp_path / "kept").write_text("not the task's")
    monkeypatch.chdir(tmp_path)
    with ordinary_user(tmp_path):
        yield Path("7")
    assert (tmp_path / "kept").exists()
    subprocess.run(["rm", "-rf", tmp_path / "7"], check=False)


def test_it_is_removed(folder: Path) -> None:
    task_folder.remove(folder)
    assert not folder.exists()


def test_it_is_set_aside_and_removed(folder: Path) -> None:
    doomed = task_folder.set_aside(folder)
    assert not folder.exists()
    task_folder.remove(doomed)
    assert not doomed.exists()


def test_it_is_counted(folder: Path, request: pytest.FixtureRequest) -> None:
    usage = task_folder.measure(str(folder))
    case = request.node.callspec.id
    assert bool(usage.problem) == ("1,100" in case)
    if case.startswith("mode"):
        assert usage.size_bytes >= 1 << 20
        assert usage.files == 3


def test_a_file_or_nothing_in_the_folders_place(tmp_path: Path) -> None:
    task_folder.remove(tmp_path / "none")
    assert task_folder.measure(str(tmp_path / "none")).files == 0
    (tmp_path / "file").write_text("x")
    task_folder.remove(tmp_path / "file")
    assert not (tmp_path / "file").exists()


def test_only_the_owner_is_let_in(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir(mode=0)
    task_folder.measure(str(tmp_path))
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o700


def test_many_files_are_not_counted_to_the_end(tmp_path: Path) -> None:
    for number in range(task_folder.FILES_MAX + 20):
        (tmp_path / str(number)).touch()
    assert task_folder.measure(str(tmp_path)).files == task_folder.FILES_MAX + 1
