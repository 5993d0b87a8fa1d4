"""Measures and deletes a task's folder on Windows.

A task can make junctions, which lead to other folders: they are never followed. A scanner such as
Defender may hold a new file open for a moment, so that it cannot be deleted: it is tried again.
Paths get the prefix that lifts the limit of 260 characters. Source: Microsoft's "Maximum Path
Length Limitation", "Reparse Points" and "File Attribute Constants".
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from axiom_client.run.folder_usage import DEPTH_MAX, FILES_MAX, FolderUsage

LONG_PATH = "\\\\?\\"
_REPARSE_POINT = 0x400  # FILE_ATTRIBUTE_REPARSE_POINT: links and junctions
TRIES, TRY_SECONDS = 20, 0.1  # Defender lets go of a file within a second or two


def measure(folder: str) -> FolderUsage:
    """Bytes and files below ``folder``; counting ends at the first limit exceeded."""
    usage = FolderUsage()
    try:
        _count(long_path(folder), usage, depth=1)
    except FileNotFoundError:
        return usage
    except OSError as error:
        usage.problem = f"the folder cannot be read: {error.strerror}"
    return usage


def _count(folder: str, usage: FolderUsage, depth: int) -> None:
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
            usage.size_bytes += status.st_size
            if stat.S_ISDIR(status.st_mode) and not _leads_elsewhere(status):
                _count(entry.path, usage, depth + 1)
            if usage.problem or usage.files > FILES_MAX:
                return


def removal(folder: Path) -> Iterator[None]:
    """Delete the folder, or the file at its path, one small step per iteration. Raises OSError."""
    yield from _removal(long_path(str(folder)))


def _removal(path: str) -> Iterator[None]:
    status = os.lstat(path)
    if not stat.S_ISDIR(status.st_mode):
        yield from _try(os.unlink, path)
        return
    if not _leads_elsewhere(status):
        with os.scandir(path) as entries:
            names = [entry.path for entry in entries]
        for name in names:
            yield from _removal(name)
    yield from _try(os.rmdir, path)


def _try(remove: Callable[[str], None], path: str) -> Iterator[None]:
    """Delete, again and again while another program holds the file. Raises OSError."""
    for left in reversed(range(TRIES)):
        yield
        try:
            remove(path)
            return
        except FileNotFoundError:
            return
        except PermissionError:
            if not left:
                raise
        os.chmod(path, stat.S_IWRITE)  # a file that is read-only cannot be deleted
        time.sleep(TRY_SECONDS)


def long_path(path: str) -> str:
    """The path in the form that may be longer than 260 characters; unchanged elsewhere."""
    if os.name != "nt" or path.startswith(LONG_PATH):
        return path
    return LONG_PATH + os.path.abspath(path)


def _leads_elsewhere(status: os.stat_result) -> bool:
    """Whether it is a link or a junction."""
    return bool(getattr(status, "st_file_attributes", 0) & _REPARSE_POINT)
