"""Identifies where an agent runs: in which folder, and since which start of the system."""

from __future__ import annotations

import hashlib
import uuid
from pathlib import Path

import psutil

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")  # Linux: random at each start of the system


def run_place(folder: Path, key: str) -> str:
    """The ``AgentRun.place``: a hash of the running system and the folder, keyed with the token.

    Two runs with the same place cannot be alive at the same time, since the lock in the folder
    allows one agent. A copy of the disk has another place even if it includes the machine's id,
    because the boot id is random at each start.
    """
    found = folder.stat()
    parts = (key, _boot(), str(found.st_dev), str(found.st_ino))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def _boot() -> str:
    try:
        return BOOT_ID.read_text().strip()
    except OSError:  # not Linux
        return f"{uuid.getnode():012x} {psutil.boot_time():.0f}"
