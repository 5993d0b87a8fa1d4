"""Apple: the GPU of a Mac with Apple silicon, which shares its memory with the processor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

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
    total = psutil.virtual_memory().total  # shared with the processor
    return [GpuFacts(uuid="mps", name="Apple GPU", memory_bytes=total, backend=BACKEND)]


def access(gpus: Sequence[GpuFacts], root: Path = ROOT) -> DriverAccess:
    """See Vendor. Metal is reached through system services, not through device files."""
    return DriverAccess()
