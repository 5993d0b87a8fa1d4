"""The device nodes through which one GPU is driven, by its identity on the bus."""

from __future__ import annotations

from pathlib import Path

from axiom_protocol.messages import GpuFacts

ROOT = Path("/")


def device_nodes(gpu: GpuFacts, root: Path = ROOT) -> list[str]:
    """The nodes of this GPU and of its driver, none of another GPU's; nothing where it has none.

    A GPU whose number the driver does not tell gets the nodes of all: CUDA_VISIBLE_DEVICES still
    shows the task only its own.
    """
    if gpu.backend == "mps":
        return []
    shared, own = _rocm(gpu, root) if gpu.backend == "rocm" else _nvidia(gpu, root)
    return [str(Path("/") / node) for node in [*shared, *own]]


def _nvidia(gpu: GpuFacts, root: Path) -> tuple[list[str], list[str]]:
    shared = ["dev/nvidiactl", "dev/nvidia-uvm", "dev/nvidia-uvm-tools", "dev/dxg"]
    if gpu.mig:
        shared.append("dev/nvidia-caps")  # which instance it may use is in nodes of their own
    minor = _minor(gpu.pci, root)
    if minor is not None:
        return shared, [f"dev/nvidia{minor}"]
    return shared, [str(node.relative_to(root)) for node in sorted(root.glob("dev/nvidia[0-9]*"))]


def _minor(pci: str, root: Path) -> int | None:
    """The driver's number of the GPU. Its files write shorter bus names than its library."""
    for folder in sorted(root.glob("proc/driver/nvidia/gpus/*")):
        if folder.name.lower().lstrip("0") == pci.lower().lstrip("0"):
            for line in (folder / "information").read_text().splitlines():
                name, _, value = line.partition(":")
                if name.strip() == "Device Minor" and value.strip().isdigit():
                    return int(value)
    return None


def _rocm(gpu: GpuFacts, root: Path) -> tuple[list[str], list[str]]:
    own = sorted(p.name for p in root.glob(f"sys/bus/pci/devices/{gpu.pci}/drm/renderD*"))
    own = own or sorted(p.name for p in root.glob("dev/dri/renderD*"))
    return ["dev/kfd"], [f"dev/dri/{name}" for name in own]
