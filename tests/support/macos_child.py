"""The process of a task as on macOS, where the system that tests run on has no Seatbelt."""

from __future__ import annotations

from axiom_client.system import libraries
from tests.support.recorded_library import RecordedLibrary


def main(parent: int, descriptor: int, standby: str = "", background: bool = False) -> None:
    """As ``macos_cold.main``, with a recorded success of sandbox_init."""
    libraries.macos_library = RecordedLibrary(sandbox_init=0)  # type: ignore[assignment]
    from axiom_client.run import macos_cold

    macos_cold.main(parent, descriptor, standby, background)
