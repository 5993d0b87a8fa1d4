"""What a file for one GPU vendor offers. Nothing of a vendor is known anywhere else.

A module beside this one that has these names is a vendor; ``vendors.VENDORS`` lists them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from axiom_client.sandbox.policy import DriverAccess
from axiom_protocol.messages import GpuFacts

ROOT = Path("/")


class ProbeFailed(Exception):
    """A driver is installed and does not answer; the message says what it said."""


class Vendor(Protocol):
    """How GPUs of one vendor are found, shown to a task and named by torch.

    BACKEND       the name on the wire, in ``GpuFacts.backend``
    TORCH_DEVICE  what torch calls the first GPU that a process sees
    TRACES        glob patterns below the root: files that a driver brings with it
    SYSTEMS       values of ``sys.platform`` on which there are no such files to look for
    HIDDEN        environment variables that keep a process from every GPU of this vendor
    """

    @property
    def BACKEND(self) -> str: ...
    @property
    def TORCH_DEVICE(self) -> str: ...
    @property
    def TRACES(self) -> Sequence[str]: ...
    @property
    def SYSTEMS(self) -> Sequence[str]: ...
    @property
    def HIDDEN(self) -> Mapping[str, str]: ...

    def probe(self, environment: Mapping[str, str]) -> list[GpuFacts]:
        """The GPUs that the owner's ``environment`` leaves to the agent and that torch can use.

        Runs in a child process, which may crash or hang. Raises ProbeFailed.
        """

    def access(self, gpus: Sequence[GpuFacts], root: Path = ROOT) -> DriverAccess:
        """What a task on these GPUs needs of the driver, and nothing of another GPU."""
