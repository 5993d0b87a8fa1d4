"""Files that survive a power cut whole; most of them only their owner can read."""

from __future__ import annotations

import hashlib
import os
import stat
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)  # the last on Windows


def replace_private(path: Path, data: bytes) -> None:
    """Replace a file. A power cut leaves the old one or the new one."""
    _replace(path, data, 0o600, None)


def replace_file(path: Path, data: bytes) -> None:
    """Replace a file as `replace_private` does; its owner and permissions stay.

    A new one gets those that the umask leaves.
    """
    old = path.stat() if path.exists() else None
    _replace(path, data, 0o666 if old is None else 0o600, old)


def write_private(path: Path, pieces: Iterable[bytes], *, durable: bool = True) -> str:
    """Write a new file; its SHA-256."""
    return _write(path, pieces, 0o600, durable=durable)


def _replace(path: Path, data: bytes, mode: int, like: os.stat_result | None) -> None:
    partial = path.with_name(f"{path.name}.partial")
    partial.unlink(missing_ok=True)  # of a process that was killed
    _write(partial, [data], mode, like)
    os.replace(partial, path)
    sync_folder(path.parent)


def _write(
    path: Path, pieces: Iterable[bytes], mode: int, like: os.stat_result | None = None, *,
    durable: bool = True,
) -> str:  # fmt: skip
    digest = hashlib.sha256()
    with os.fdopen(os.open(path, _NEW, mode), "wb") as file:
        for piece in pieces:
            digest.update(piece)
            file.write(piece)
        file.flush()
        if like is not None:
            _copy_access(file.fileno(), like)
        if durable:
            os.fsync(file.fileno())
    return digest.hexdigest()


def _copy_access(descriptor: int, like: os.stat_result) -> None:
    """Give an open file another one's owner and permissions, as far as this user may."""
    if sys.platform != "win32":
        with suppress(PermissionError):
            os.fchown(descriptor, like.st_uid, like.st_gid)
        os.fchmod(descriptor, stat.S_IMODE(like.st_mode))


def sync_disks() -> None:
    """Make all that was written durable: for thousands of files this is faster than one by one."""
    if sys.platform != "win32":
        os.sync()


def sync_folder(folder: Path) -> None:
    """Make a rename in a folder durable. Windows does so itself."""
    if sys.platform != "win32":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
