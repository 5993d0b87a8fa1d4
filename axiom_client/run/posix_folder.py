"""Measures and deletes a task's folder on Linux and macOS.

Its folders may be nested beyond the longest path, be unreadable, or be renamed while they are
read. Therefore everything is opened relative to a descriptor, and links are never followed.
"""

from __future__ import annotations

import os
import secrets
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

assert sys.platform != "win32"

from axiom_client.run.folder_usage import BLOCK_BYTES, DEPTH_MAX, FILES_MAX, FolderUsage

_FOLDER = os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY | os.O_NOFOLLOW
_OWNER_PERMISSIONS = 0o700


def measure(folder: str) -> FolderUsage:
    """Bytes on disk and files below ``folder``; counting ends at the first limit exceeded."""
    usage = FolderUsage()
    try:
        with _opened(folder) as descriptor:
            _count(descriptor, usage, depth=1)
    except FileNotFoundError:
        return usage
    except OSError as error:
        usage.problem = f"the folder cannot be read: {error.strerror}"
    return usage


def _count(folder: int, usage: FolderUsage, depth: int) -> None:
    if depth > DEPTH_MAX:
        usage.problem = f"more than {DEPTH_MAX} nested folders"
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue  # removed meanwhile
            usage.files += 1
            usage.size_bytes += status.st_blocks * BLOCK_BYTES
            if stat.S_ISDIR(status.st_mode):
                _count_below(folder, entry.name, usage, depth)
            if usage.problem or usage.files > FILES_MAX:
                return


def _count_below(folder: int, name: str, usage: FolderUsage, depth: int) -> None:
    try:
        with _opened(name, folder) as inner:
            _count(inner, usage, depth + 1)
    except (FileNotFoundError, NotADirectoryError):
        return  # removed or replaced meanwhile


def removal(folder: Path) -> Iterator[None]:
    """Delete the folder, or the file at its path, one small step per iteration. Raises OSError."""
    if not stat.S_ISDIR(folder.lstat().st_mode):
        folder.unlink()
        return
    with _opened(str(folder)) as top:
        while names := os.listdir(top):
            for name in names:
                yield from _remove_entry(top, name)
    folder.rmdir()


def _remove_entry(top: int, name: str) -> Iterator[None]:
    """Delete a file; of a folder, move the inner folders to ``top`` and delete the rest.

    A tree of any depth is thus deleted without recursion and with two open descriptors.
    """
    yield
    if not _is_folder(name, top):
        os.unlink(name, dir_fd=top)
        return
    with _opened(name, top) as folder:
        for inner in os.listdir(folder):
            yield
            if _is_folder(inner, folder):
                _allow_owner(inner, folder)  # moving a folder writes to it: its parent changes
                os.rename(inner, secrets.token_hex(16), src_dir_fd=folder, dst_dir_fd=top)
            else:
                os.unlink(inner, dir_fd=folder)
    os.rmdir(name, dir_fd=top)


def _is_folder(name: str, parent: int) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)


@contextmanager
def _opened(name: str, parent: int | None = None) -> Iterator[int]:
    """A folder's descriptor. Missing permissions of its owner are added first."""
    try:
        descriptor = os.open(name, _FOLDER, dir_fd=parent)
    except PermissionError:
        _allow_owner(name, parent)
        descriptor = os.open(name, _FOLDER, dir_fd=parent)
    try:
        status = os.fstat(descriptor)
        if status.st_mode & _OWNER_PERMISSIONS != _OWNER_PERMISSIONS:
            os.fchmod(descriptor, _OWNER_PERMISSIONS)
        yield descriptor
    finally:
        os.close(descriptor)


def _allow_owner(name: str, parent: int | None) -> None:
    """Add all permissions of the owner. ``name`` is no link: a task cannot make one."""
    os.chmod(name, _OWNER_PERMISSIONS, dir_fd=parent)
