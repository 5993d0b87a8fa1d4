"""The process of a task as on macOS, whose standby processes hang while they load libraries."""

from __future__ import annotations

import time

from tests.support import macos_child


def main(parent: int, descriptor: int, standby: str = "", background: bool = False) -> None:
    """As ``macos_child.main``, for a task; never ready otherwise."""
    if standby:
        time.sleep(1000)
    macos_child.main(parent, descriptor)
