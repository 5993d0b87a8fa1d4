"""Notices that a file was written or replaced, by Linux' inotify instead of polling.

The folder is watched, because editors replace files. Python's standard library has no inotify and
the packages for it start threads; three calls are enough here. On other systems no change is
noticed.
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
    """``descriptor`` is readable after a change in the file's folder; -1 if there is no watch."""

    def __init__(self, path: Path) -> None:
        self._name = os.fsencode(path.name)
        self.descriptor = -1
        if sys.platform == "linux":
            self._watch(path)

    def _watch(self, path: Path) -> None:
        library = ctypes.CDLL(None, use_errno=True)
        self.descriptor = library.inotify_init1(_FLAGS)
        mask = IN_CLOSE_WRITE | IN_MOVED_TO | IN_DELETE | IN_MOVED_FROM
        folder = os.fsencode(path.parent)
        if self.descriptor >= 0 and library.inotify_add_watch(self.descriptor, folder, mask) < 0:
            self.close()  # no such folder, or the user's limit of watches is reached

    def changed(self) -> bool:
        """Whether the file changed since the last call."""
        try:
            data = os.read(self.descriptor, 65_536)
        except BlockingIOError:
            return False
        return self._name in _names(data)

    def close(self) -> None:
        """Stop watching."""
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
