"""How much disk a task takes: what lies in its folder, and what it holds open but deleted."""

from __future__ import annotations

import os
import stat

FILES_MAX = 10_000  # more files than this is over the limit whatever their size
SLACK_BYTES = 128 * 1024  # folders and half-filled blocks are not the task's data
_BLOCK_BYTES = 512  # st_blocks counts in these on every file system


def used(folder: str, pid: int | None = None) -> tuple[int, int]:
    """(bytes on disk, files). Counting ends at FILES_MAX files. Never follows a link."""
    total = files = 0
    pending = [folder]
    while pending:
        try:
            entries = os.scandir(pending.pop())
        except FileNotFoundError:
            continue  # removed while we look
        with entries:
            for entry in entries:
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                files += 1
                total += status.st_blocks * _BLOCK_BYTES
                if files > FILES_MAX:
                    return total, files
                if stat.S_ISDIR(status.st_mode):
                    pending.append(entry.path)
    return total + (_deleted_but_open(pid) if pid else 0), files


def _deleted_but_open(pid: int) -> int:
    observed: dict[int, int] = {}
    try:
        for name in os.listdir(f"/proc/{pid}/fd"):
            status = os.stat(f"/proc/{pid}/fd/{name}")
            if stat.S_ISREG(status.st_mode) and status.st_nlink == 0:
                observed[status.st_ino] = status.st_blocks * _BLOCK_BYTES
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return sum(observed.values())  # it ended or closed the file meanwhile
    return sum(observed.values())
