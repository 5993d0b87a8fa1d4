"""The vendors whose GPUs can be used, and what a task on some GPUs needs of its vendor."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from axiom_client.host.gpu import mps, nvidia, rocm
from axiom_client.host.gpu.vendor import ROOT, Vendor
from axiom_client.sandbox.policy import DriverAccess
from axiom_protocol.messages import GpuFacts

VENDORS: dict[str, Vendor] = {vendor.BACKEND: vendor for vendor in (nvidia, rocm, mps)}


def present(root: Path = ROOT) -> list[Vendor]:
    """Those of which this host may have a GPU: their files are there, or cannot be looked for."""
    return [
        vendor
        for vendor in VENDORS.values()
        if sys.platform in vendor.SYSTEMS or _traces(vendor, root)
    ]


def traces(root: Path = ROOT) -> list[str]:
    """The files of all drivers; while they stay the same, so do the GPUs."""
    return sorted(path for vendor in VENDORS.values() for path in _traces(vendor, root))


def access(gpus: Sequence[GpuFacts]) -> DriverAccess | None:
    """What a task on ``gpus``, all of one vendor, needs of the driver; None for cores."""
    return VENDORS[gpus[0].backend].access(gpus) if gpus else None


def torch_device(gpus: Sequence[GpuFacts]) -> str:
    """As torch names it. A task sees its own GPUs alone, so that is always the first."""
    return VENDORS[gpus[0].backend].TORCH_DEVICE if gpus else "cpu"


def hidden() -> dict[str, str]:
    """The environment that keeps a process from every GPU."""
    return {name: value for v in VENDORS.values() for name, value in v.HIDDEN.items()}


def _traces(vendor: Vendor, root: Path) -> list[str]:
    return [str(path) for pattern in vendor.TRACES for path in root.glob(pattern)]
