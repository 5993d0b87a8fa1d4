"""Where an agent runs: in this folder, on this system since it was started."""

from __future__ import annotations

import hashlib
import uuid
from pathlib import Path

import psutil

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")  # Linux: random at each start of the system


def place(folder: Path, key: str) -> str:
    """A hash, keyed with this host's token, of the running system and the folder.

    Two runs with the same place cannot be alive at the same time, since the lock in the folder
    allows one agent. A copy of the disk has another place: even where it copied the machine's id,
    another system runs there.
    """
    found = folder.stat()
    parts = (key, _boot(), str(found.st_dev), str(found.st_ino))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def _boot() -> str:
    try:
        return BOOT_ID.read_text().strip()
    except OSError:  # no Linux
        return f"{uuid.getnode():012x} {psutil.boot_time():.0f}"
