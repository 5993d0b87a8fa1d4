"""Log lines with their levels for systemd's journal, by the protocol of sd-daemon(3)."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping

PRIORITIES = {logging.CRITICAL: 2, logging.ERROR: 3, logging.WARNING: 4, logging.DEBUG: 7}
INFORMATION = 6


class JournalFormatter(logging.Formatter):
    """Each line begins with its level, such as ``<4>``. The journal itself adds the time."""

    def format(self, record: logging.LogRecord) -> str:
        """The message's lines, each with the level: the journal takes each for an entry."""
        prefix = f"<{PRIORITIES.get(record.levelno, INFORMATION)}>"
        return "\n".join(prefix + line for line in super().format(record).splitlines())


def is_journal(descriptor: int, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether a descriptor leads to the journal: $JOURNAL_STREAM has its device and inode.

    A service whose output somebody redirected has the variable too. See systemd.exec(5).
    """
    found = os.fstat(descriptor)
    return environment.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"
