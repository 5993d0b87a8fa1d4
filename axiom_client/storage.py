"""Turns the operating system's errors about files into errors that say what to do."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from axiom_client.errors import DiskFull, JournalBroken
from axiom_client.folders import find_folders

DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
NOT_PERMITTED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR})


@contextmanager
def translate_storage_errors() -> Iterator[None]:
    """Raise DiskFull for a full disk, JournalBroken for a file that cannot be used."""
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL:
            raise DiskFull(error.filename or find_folders().state) from None
        if error.filename is None:
            raise
        todo = "check what lies there"  # a loop of links, a missing disk
        if error.errno in NOT_PERMITTED:
            todo = (
                "check the permissions of the agent's folders, or run this command as the user "
                "who owns them"
            )
        raise JournalBroken(f"{error.filename}: {error.strerror}; {todo}") from None
