"""Tell when a file is written or replaced, without looking again and again: Linux' inotify.

The folder is watched, for editors replace files. Python's library has no inotify, and the packages
that have bring threads; three calls are enough here. Elsewhere nothing is told.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

IN_CLOSE_WRITE, IN_MOVED_TO, IN_DELETE, IN_MOVED_FROM = 0x8, 0x80, 0x200, 0x40  # linux/inotify.h
_FLAGS = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
_HEAD = struct.Struct("iIII")  # watch, mask, cookie, length of the name that follows


class FileWatch:
    """``descriptor`` becomes readable when something in the file's folder changed; -1: no watch."""

    def __init__(self, path: Path) -> None:
        self._name = os.fsencode(path.name)
        self.descriptor = -1
        if sys.platform != "linux":
            return
        library = ctypes.CDLL(None, use_errno=True)
        self.descriptor = library.inotify_init1(_FLAGS)
        mask = IN_CLOSE_WRITE | IN_MOVED_TO | IN_DELETE | IN_MOVED_FROM
        folder = os.fsencode(path.parent)
        if self.descriptor >= 0 and library.inotify_add_watch(self.descriptor, folder, mask) < 0:
            self.close()  # no such folder, or the user's limit of watches is reached

    def changed(self) -> bool:
        """Whether the file was among what changed since the last call."""
        try:
            data = os.read(self.descriptor, 65_536)
        except BlockingIOError:
            return False
        return self._name in _names(data)

    def close(self) -> None:
        """Watch no more."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


def _names(data: bytes) -> Iterator[bytes]:
    at = 0
    while at + _HEAD.size <= len(data):
        *_, length = _HEAD.unpack_from(data, at)
        at += _HEAD.size
        yield data[at : at + length].rstrip(b"\0")
        at += length
