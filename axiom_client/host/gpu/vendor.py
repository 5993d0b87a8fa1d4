"""The interface of a GPU vendor's module. All vendor-specific code is in these modules.

A module in this folder that defines these names is a vendor; ``vendors.VENDORS`` lists them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from axiom_client.sandbox.policy import DriverAccess
from axiom_protocol.messages import GpuFacts

ROOT = Path("/")


class ProbeFailed(Exception):
    """A driver is installed but cannot be used; the message says why."""


class Vendor(Protocol):
    """How GPUs of one vendor are found, shown to a task and named by torch.

    BACKEND       the name on the wire, in ``GpuFacts.backend``
    TORCH_DEVICE  what torch calls the first GPU that a process sees
    TRACES        glob patterns, relative to the root, of files that an installed driver creates
    SYSTEMS       values of ``sys.platform`` without such files, on which it is always probed
    HIDDEN        environment variables that hide every GPU of this vendor from a process
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
        """The GPUs that ``environment`` leaves visible to the agent and that torch can use.

        Runs in a child process, which may crash or hang. Raises ProbeFailed.
        """

    def access(self, gpus: Sequence[GpuFacts], root: Path = ROOT) -> DriverAccess:
        """The driver access that a task on these GPUs needs, and none to another GPU."""
