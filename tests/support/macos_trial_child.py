"""The trial of Seatbelt where sandbox_init says that it confined the process, and did nothing."""

from __future__ import annotations

from axiom_client.system import libraries
from tests.support.recorded_library import RecordedLibrary


def main(policy_json: str, outside_json: str) -> None:
    """As ``macos_trial.main``, with a recorded success of sandbox_init."""
    libraries.macos_library = RecordedLibrary(sandbox_init=0)  # type: ignore[assignment]
    from axiom_client.sandbox import macos_trial

    macos_trial.main(policy_json, outside_json)
