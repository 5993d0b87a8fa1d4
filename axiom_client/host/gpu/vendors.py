"""The supported GPU vendors, and lookups by a task's GPUs."""

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
    """Vendors whose GPUs this host may have: their driver files exist, or the system needs none."""
    return [
        vendor
        for vendor in VENDORS.values()
        if sys.platform in vendor.SYSTEMS or _traces(vendor, root)
    ]


def traces(root: Path = ROOT) -> list[str]:
    """The existing files of all drivers; as long as they do not change, neither do the GPUs."""
    return sorted(path for vendor in VENDORS.values() for path in _traces(vendor, root))


def access(gpus: Sequence[GpuFacts]) -> DriverAccess | None:
    """The driver access of a task on ``gpus``, all of one vendor; None for CPU cores."""
    return VENDORS[gpus[0].backend].access(gpus) if gpus else None


def torch_device(gpus: Sequence[GpuFacts]) -> str:
    """The torch device of a task: always the first, since a task sees only its own GPUs."""
    return VENDORS[gpus[0].backend].TORCH_DEVICE if gpus else "cpu"


def hidden() -> dict[str, str]:
    """The environment variables that hide every GPU from a process."""
    return {name: value for v in VENDORS.values() for name, value in v.HIDDEN.items()}


def _traces(vendor: Vendor, root: Path) -> list[str]:
    return [str(path) for pattern in vendor.TRACES for path in root.glob(pattern)]
