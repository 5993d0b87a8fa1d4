"""Chooses the sandbox for this host, or none, with the reason: the one place that asks which system
this is. ``selftest`` then tries whether the sandbox holds, and the agent runs no task if not."""

from __future__ import annotations

import platform
import sys
from typing import Literal

from msgspec import Struct

#: kernel: Landlock and seccomp, on Linux. seatbelt: on macOS. appcontainer: with a job object, on
#: Windows.
ModeName = Literal["kernel", "bubblewrap", "seatbelt", "appcontainer", "none"]


class Mode(Struct, frozen=True, kw_only=True):
    """The sandbox of this host. ``helper`` is the path of bubblewrap in bubblewrap mode."""

    mode: ModeName
    reason: str = ""
    helper: str = ""


def choose() -> Mode:
    """The strongest sandbox that works here; "none" in case of doubt."""
    if sys.platform == "linux":
        from axiom_client.sandbox.linux_choice import choose_on_linux

        return choose_on_linux()
    elif sys.platform == "win32":  # noqa: RET505  mypy skips a branch, not what follows one
        from axiom_client.sandbox import windows_container

        return _if_there("appcontainer", windows_container.missing())
    elif sys.platform == "darwin":
        from axiom_client.sandbox import macos

        return _if_there("seatbelt", macos.missing())
    else:
        return Mode(mode="none", reason=f"there is no sandbox for {platform.system()}")


def _if_there(name: ModeName, missing: str) -> Mode:
    return Mode(mode="none", reason=missing) if missing else Mode(mode=name)
