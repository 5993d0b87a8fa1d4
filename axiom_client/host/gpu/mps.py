"""Apple: the GPU of a Mac with Apple silicon, which shares its memory with the processor."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from axiom_client.host.gpu.vendor import ROOT
from axiom_client.sandbox.policy import DriverAccess
from axiom_protocol.messages import GpuFacts

BACKEND = "mps"
TORCH_DEVICE = "mps"
TRACES = ()
SYSTEMS = ("darwin",)
HIDDEN: Mapping[str, str] = {}


def probe(environment: Mapping[str, str]) -> list[GpuFacts]:
    """See Vendor."""
    import torch

    if not torch.backends.mps.is_available():
        return []
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return [GpuFacts(uuid="mps", name="Apple GPU", memory_bytes=total, backend=BACKEND)]


def access(gpus: Sequence[GpuFacts], root: Path = ROOT) -> DriverAccess:
    """See Vendor. Metal is reached through system services, not through device files."""
    return DriverAccess()
