"""The time of day as people here read it."""

from __future__ import annotations

import time


def utc_offset_seconds() -> int:
    """Local time less UTC, now."""
    return time.localtime().tm_gmtoff
