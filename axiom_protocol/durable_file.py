"""Writes files that survive a power cut whole: the old one or the new one."""

from __future__ import annotations

import os
import stat
import sys
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

PUBLIC, PRIVATE = 0o666, 0o600  # permissions, before the umask


def replace_file(path: Path, data: bytes, mode: int = PUBLIC, *, keep_access: bool = False) -> None:
    """Write a file, or replace it in one step. Raises OSError, and then leaves the old one.

    mode         permissions of the new file
    keep_access  instead, owner and permissions of the old file, if there is one
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    old = path.stat() if keep_access and path.exists() else None
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)  # left by a process that was killed
    try:
        with new_file(partial, PRIVATE if old else mode) as file:
            file.write(data)
            if old is not None:
                _copy_access(file.fileno(), old)
            finish(file, path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def new_file(path: Path, mode: int) -> BinaryIO:
    """Create a file, and write through no link that is in its place. Raises FileExistsError."""
    return open(path, "xb", opener=lambda name, flags: os.open(name, flags, mode))


def finish(file: BinaryIO, path: Path) -> None:
    """Put a new file in the place of ``path``, once its content is on the disk."""
    file.flush()
    os.fsync(file.fileno())
    if sys.platform == "win32":
        file.close()  # an open file cannot be renamed there
    os.replace(file.name, path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make a rename in a folder durable. Windows does so itself."""
    if sys.platform != "win32":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def sync_disks() -> None:
    """Make all that was written durable: for thousands of files this is faster than one by one."""
    if sys.platform != "win32":
        os.sync()


def _copy_access(descriptor: int, like: os.stat_result) -> None:
    """Give an open file another one's owner and permissions, as far as this user may."""
    if sys.platform != "win32":
        with suppress(PermissionError):
            os.fchown(descriptor, like.st_uid, like.st_gid)
        os.fchmod(descriptor, stat.S_IMODE(like.st_mode))
