"""Files that survive a power cut whole, and that only their owner can read."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterable
from pathlib import Path

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)  # the last on Windows


def replace_private(path: Path, data: bytes) -> None:
    """Replace a file. A power cut leaves the old one or the new one."""
    partial = path.with_name(f"{path.name}.partial")
    partial.unlink(missing_ok=True)  # of a process that was killed
    write_private(partial, [data])
    os.replace(partial, path)
    sync_folder(path.parent)


def write_private(path: Path, pieces: Iterable[bytes], *, durable: bool = True) -> str:
    """Write a new file; its SHA-256."""
    digest = hashlib.sha256()
    with os.fdopen(os.open(path, _NEW, 0o600), "wb") as file:
        for piece in pieces:
            digest.update(piece)
            file.write(piece)
        file.flush()
        if durable:
            os.fsync(file.fileno())
    return digest.hexdigest()


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
