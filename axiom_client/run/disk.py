"""The disk space of a task's deleted files, and how much its process has written, on Linux.

A deleted file keeps its blocks while it is open or mapped. Source: proc(5),
Documentation/filesystems/proc.rst (``/proc/PID/io``: write_bytes are bytes sent to storage).
"""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Sequence

assert sys.platform == "linux"

from axiom_client.run.folder_usage import BLOCK_BYTES
from axiom_client.run.writes import Writes

_MAPPED = re.compile(
    rb"^([0-9a-f]+)-([0-9a-f]+) \S+ \S+ (\S+) (\d+) +(.*) \(deleted\)$", re.MULTILINE
)


def writes(pid: int) -> Writes:
    """What ``pid`` has written; zeros if the kernel does not count it or the process has ended."""
    try:
        with open(f"/proc/{pid}/io") as file:
            fields = dict(line.split(": ", 1) for line in file)
    except OSError:
        return Writes()
    return Writes(
        storage_bytes=int(fields.get("write_bytes", 0)), call_bytes=int(fields.get("wchar", 0))
    )


def deleted_bytes(
    pid: int, folders: Sequence[str], file_bytes_max: int, written_bytes: int, *, read_maps: bool
) -> int:
    """Bytes on disk of files of ``folders`` that are deleted but still open or mapped by ``pid``.

    The size of a file that is only mapped is not known. Such files count as the mapped part or, if
    more, as the ``written_bytes`` of the process, up to ``file_bytes_max`` each.
    """
    opened = _deleted_but_open(pid)
    mapped = _deleted_but_mapped(pid, folders) if read_maps else {}
    extents = [size for inode, size in mapped.items() if inode not in opened]
    possible = min(len(extents) * file_bytes_max, written_bytes)
    return sum(opened.values()) + max(sum(extents), possible)


def _deleted_but_open(pid: int) -> dict[int, int]:
    """Bytes on disk by inode."""
    observed: dict[int, int] = {}
    try:
        for name in os.listdir(f"/proc/{pid}/fd"):
            status = os.stat(f"/proc/{pid}/fd/{name}")
            if stat.S_ISREG(status.st_mode) and status.st_nlink == 0:
                observed[status.st_ino] = status.st_blocks * BLOCK_BYTES
    except OSError:
        return observed  # it ended or closed the file meanwhile
    return observed


def _deleted_but_mapped(pid: int, folders: Sequence[str]) -> dict[int, int]:
    """Bytes of address space by inode, for deleted files of the task's folders only.

    Files elsewhere do not count: a library that was replaced while the task runs is deleted too.
    """
    try:
        with open(f"/proc/{pid}/maps", "rb") as file:
            text = file.read()
    except OSError:
        return {}
    within = tuple(os.fsencode(f).replace(b"\n", b"\\012") + b"/" for f in folders)
    mapped: dict[int, int] = {}
    for start, end, _device, inode, path in _MAPPED.findall(text):
        if path.startswith(within):
            size = int(end, 16) - int(start, 16)
            mapped[int(inode)] = mapped.get(int(inode), 0) + size
    return mapped
