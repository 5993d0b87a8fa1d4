"""The process of a task in wine, which has job objects but no AppContainers: it runs without one.

The agent itself would run nothing here. This shows the rest of a task's way through the pool.
"""

from __future__ import annotations

from axiom_client.sandbox import windows_calls
from axiom_client.sandbox.errors import SandboxError
from tests.wine import complex_parts


def main(standby: str = "") -> None:
    """As ``windows_child.main``, with only the job object verified."""
    complex_parts.provide()
    from axiom_client.run import windows_child

    windows_child.main(standby, _verify_job)


def _verify_job() -> None:
    if not windows_calls.in_job():
        raise SandboxError("this process is not in a job object")
