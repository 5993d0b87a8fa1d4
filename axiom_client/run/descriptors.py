"""How many files the agent may have open, on Linux and macOS."""

from __future__ import annotations

import resource
import sys

assert sys.platform != "win32"

DESCRIPTORS_MAX = 65_536  # more than any host's tasks need; each child has a lower limit


def allow_descriptors() -> None:
    """Raise the limit on open files: a task takes up to four; 1,024 are few for 240 cores."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS_MAX if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS_MAX)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
