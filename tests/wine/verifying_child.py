"""The process of a task in wine that verifies, as the real one does, that it is confined."""

from __future__ import annotations

from tests.wine import complex_parts


def main(standby: str = "") -> None:
    """As ``windows_child.main``; only numpy is helped to start."""
    complex_parts.provide()
    from axiom_client.run import windows_child

    windows_child.main(standby)
