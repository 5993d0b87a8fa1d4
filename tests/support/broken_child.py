"""The process of a task as on macOS, whose libraries cannot be loaded."""

from __future__ import annotations

from axiom_client.run import libraries
from tests.support import macos_child


def main(parent: int, descriptor: int, standby: str = "", background: bool = False) -> None:
    """As ``macos_child.main``, where every import of a library fails."""

    def refuse(environment: str, *, gpu: bool = False) -> None:
        raise ImportError("no module named numpy here")

    libraries.warm = refuse
    macos_child.main(parent, descriptor, standby, background)
