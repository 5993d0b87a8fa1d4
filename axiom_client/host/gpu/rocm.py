"""AMD: GPUs are listed by torch's ROCm build. Not yet run on an AMD GPU (docs/gpu.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from axiom_client.host.gpu.vendor import ROOT, ProbeFailed
from axiom_client.sandbox.policy import Condition, DriverAccess
from axiom_protocol.messages import GpuFacts

BACKEND = "rocm"
TORCH_DEVICE = "cuda:0"  # torch's ROCm build uses CUDA's device names
TRACES = ("dev/kfd", "dev/dri/renderD*")
SYSTEMS = ()
_VISIBLE = "HIP_VISIBLE_DEVICES"
HIDDEN = {_VISIBLE: ""}

_REQUEST = 1  # ioctl's second argument
#: Source: linux/kfd_ioctl.h (type 'K') and drm/drm.h (type 'd').
_IOCTLS = (
    (Condition(_REQUEST, ord("K") << 8, 0xFF00),),
    (Condition(_REQUEST, ord("d") << 8, 0xFF00),),
)


def probe(environment: Mapping[str, str]) -> list[GpuFacts]:
    """See Vendor. ``uuid`` is the GPU's number among all GPUs of the host, or its UUID."""
    import torch

    if torch.version.hip is None:
        raise ProbeFailed("torch is installed without ROCm; install a build of torch with it")
    if not torch.cuda.is_available():
        raise ProbeFailed(f"torch for ROCm {torch.version.hip} finds no GPU that it can use")
    devices = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    names = _host_numbers(environment.get(_VISIBLE), len(devices))
    return [
        GpuFacts(
            uuid=name,
            name=device.name,
            memory_bytes=device.total_memory,
            backend=BACKEND,
            pci=_pci(device),
        )
        for name, device in zip(names, devices, strict=True)
    ]


def access(gpus: Sequence[GpuFacts], root: Path = ROOT) -> DriverAccess:
    """See Vendor."""
    nodes = ["dev/kfd", *(f"dev/dri/{name}" for gpu in gpus for name in _render_nodes(gpu, root))]
    return DriverAccess(
        devices=tuple(dict.fromkeys(f"/{node}" for node in nodes)),
        read_only=("/opt/rocm", "/sys/class/kfd", "/sys/devices/virtual/kfd"),
        ioctls=_IOCTLS,
        environment={_VISIBLE: ",".join(gpu.uuid for gpu in gpus)},
    )


def _host_numbers(variable: str | None, count: int) -> list[str]:
    """The host's number of each GPU, which torch numbers from 0.

    With HIP_VISIBLE_DEVICES="2,3" torch's first GPU is the host's third: a task needs "2". UUIDs
    are kept.
    """
    if variable is None:
        return [str(index) for index in range(count)]
    words = [word.strip() for word in variable.split(",") if word.strip()]
    return words[:count]


def _render_nodes(gpu: GpuFacts, root: Path) -> list[str]:
    own = sorted(p.name for p in root.glob(f"sys/bus/pci/devices/{gpu.pci}/drm/renderD*"))
    return own or sorted(p.name for p in root.glob("dev/dri/renderD*"))


def _pci(device: Any) -> str:
    """The PCI address; empty if this version of torch does not provide it."""
    numbers = [getattr(device, f"pci_{part}_id", None) for part in ("domain", "bus", "device")]
    if any(number is None for number in numbers):
        return ""
    domain, bus, slot = map(int, numbers)  # type: ignore[arg-type]
    return f"{domain:04x}:{bus:02x}:{slot:02x}.0"
