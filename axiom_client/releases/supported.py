"""Whether this installation may update itself."""

from __future__ import annotations

import sys
from pathlib import Path

_PACKAGED = Path("/usr")  # package managers install below it
_LOCAL = Path("/usr/local")  # and administrators here


def why_unsupported(code: Path = Path(__file__), system: str = sys.platform) -> str:
    """Why this installation does not update itself; empty if it can. ``code``: a file of it."""
    if system == "win32":
        return "on Windows, axiom-client does not update itself yet; update it by hand"
    if code.is_relative_to(_PACKAGED) and not code.is_relative_to(_LOCAL):
        return (
            "axiom-client was installed by a package manager, which updates it "
            "(sudo apt upgrade axiom-client, or sudo dnf upgrade axiom-client)"
        )
    return ""
