"""The local time zone."""

from __future__ import annotations

import time


def utc_offset_seconds() -> int:
    """Local time minus UTC, now."""
    return time.localtime().tm_gmtoff
