"""A full disk and missing rights, by their names, wherever a command meets them."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from axiom_client.errors import DiskFull, JournalBroken
from axiom_client.folders import find_folders

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
NO_RIGHTS = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR})


@contextmanager
def storage_faults_named() -> Iterator[None]:
    """Turn the operating system's error about a file into DiskFull or JournalBroken."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise DiskFull(error.filename or find_folders().state) from None
        if error.filename is not None and error.errno in NO_RIGHTS:
            raise JournalBroken(
                f"{error.filename}: {error.strerror}; check the rights of the agent's folders, "
                "or run this command as the user who owns them"
            ) from None
        raise
