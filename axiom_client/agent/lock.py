"""The lock that allows one agent for each folder. The kernel releases it however the agent ends."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from axiom_client.errors import AlreadyRunning

#: Windows forbids others to read what is locked, so the byte lies beyond the holder's number.
_LOCKED_BYTE = 1 << 30


class Lock:
    """A lock held from construction until ``release``. Raises AlreadyRunning."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)  # closed on exec
        try:
            _lock(self._file)
        except OSError:
            os.lseek(self._file, 0, os.SEEK_SET)
            holder = os.read(self._file, 32).decode(errors="replace").strip() or "unknown"
            os.close(self._file)
            raise AlreadyRunning(
                f"another agent uses this folder already (process {holder}); "
                "see it with: axiom-client status"
            ) from None
        os.ftruncate(self._file, 0)
        os.lseek(self._file, 0, os.SEEK_SET)
        os.write(self._file, f"{os.getpid()}\n".encode())

    def release(self) -> None:
        """Release the lock, so that another agent may use the folder."""
        os.close(self._file)


def _lock(file: int) -> None:
    if sys.platform == "win32":
        import msvcrt

        os.lseek(file, _LOCKED_BYTE, os.SEEK_SET)
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
