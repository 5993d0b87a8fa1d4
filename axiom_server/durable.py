"""Files that survive a power cut whole: the old one or the new one."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import BinaryIO

PUBLIC, PRIVATE = 0o666, 0o600  # before the umask


def replace_file(path: Path, data: bytes, mode: int = PUBLIC) -> None:
    """Write a file, or replace it in one step. Raises OSError, and then leaves the old one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with new_file(partial, mode) as file:
            file.write(data)
            finish(file, path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def new_file(path: Path, mode: int) -> BinaryIO:
    """Create a file; one that a killed process left there is removed, of a link only the link."""
    path.unlink(missing_ok=True)
    return open(path, "xb", opener=lambda name, flags: os.open(name, flags, mode))


def finish(file: BinaryIO, path: Path) -> None:
    """Put a file that was written in the place of ``path``, once its content is on the disk."""
    file.flush()
    os.fsync(file.fileno())
    if sys.platform == "win32":
        file.close()  # an open file cannot be renamed there
    os.replace(file.name, path)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    if sys.platform != "win32":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
