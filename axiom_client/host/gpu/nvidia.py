"""NVIDIA: GPUs are listed by the management library (NVML) and confirmed by torch.

Which access a task needs was found on an H200 with driver 580 by removing one right at a time
(docs/gpu.md): its GPU's device files, the driver's libraries, two kinds of ioctl, thread names and
a listening socket. Without the last two libcuda fails with error 304.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from axiom_client.host.gpu.vendor import ROOT, ProbeFailed
from axiom_client.host.gpu.visible import visible
from axiom_client.sandbox.policy import Condition, DriverAccess
from axiom_protocol.messages import GpuFacts

BACKEND = "cuda"
TORCH_DEVICE = "cuda:0"
TRACES = (
    "dev/nvidiactl", "dev/nvidia[0-9]*", "dev/nvidia-caps/*", "dev/dxg",
    "proc/driver/nvidia/version",
)  # fmt: skip
SYSTEMS = ("win32",)
_VISIBLE = "CUDA_VISIBLE_DEVICES"
#: The folder of an empty library that hides the driver's own: libcuda starts a thread as soon as
#: torch counts devices, even if none is visible, and a process with two threads must not fork.
_NO_LIBRARY = Path(__file__).with_name("no_cuda")
_LIBRARY_PATHS = (str(_NO_LIBRARY), os.environ.get("LD_LIBRARY_PATH"))
HIDDEN = {_VISIBLE: "", "LD_LIBRARY_PATH": ":".join(filter(None, _LIBRARY_PATHS))}

#: Folders outside /usr/lib in which containers and virtual machines mount the driver's libraries.
_LIBRARIES = ("/usr/local/nvidia", "/usr/lib/wsl")
_SHARED_NODES = ("dev/nvidiactl", "dev/nvidia-uvm", "dev/nvidia-uvm-tools", "dev/dxg")
_HOST_MEMORY_BYTES = 1_000_000_000  # taken by a CUDA context; measured by packaging/gpu/prove.py
_REQUEST = 1  # ioctl's second argument
#: Source: the open kernel modules, nv-ioctl-numbers.h (type 'F') and uvm_ioctl.h, uvm_linux_ioctl.h
#: (bare numbers, and two that open and close a session).
_IOCTLS = (
    (Condition(_REQUEST, ord("F") << 8, 0xFF00),),
    (Condition(_REQUEST, 0, 0xFFFF_FF00),),
    (Condition(_REQUEST, 0x3000_0001, 0xFFFF_FFFF),),
    (Condition(_REQUEST, 0x3000_0002, 0xFFFF_FFFF),),
)


def probe(environment: Mapping[str, str]) -> list[GpuFacts]:
    """See Vendor."""
    found = visible(_by_library(), environment.get(_VISIBLE))
    return _confirmed(found) if found else []


def access(gpus: Sequence[GpuFacts], root: Path = ROOT) -> DriverAccess:
    """See Vendor. A GPU with an unknown device number gets the nodes of all GPUs, but only its own
    is visible by the environment."""
    nodes = [*_SHARED_NODES, *(node for gpu in gpus for node in _own_nodes(gpu, root))]
    return DriverAccess(
        devices=tuple(dict.fromkeys(f"/{node}" for node in nodes)),
        read_only=_LIBRARIES,
        ioctls=_IOCTLS,
        names_threads=True,
        listens=True,
        memory_bytes=_HOST_MEMORY_BYTES,
        environment={_VISIBLE: ",".join(gpu.uuid for gpu in gpus)},
    )


def _own_nodes(gpu: GpuFacts, root: Path) -> list[str]:
    # a part of a GPU (MIG) is reached through capability nodes
    capabilities = ["dev/nvidia-caps"] if gpu.mig else []
    minor = _minor(gpu.pci, root)
    if minor is not None:
        return [*capabilities, f"dev/nvidia{minor}"]
    every = sorted(str(node.relative_to(root)) for node in root.glob("dev/nvidia[0-9]*"))
    return [*capabilities, *every]


def _minor(pci: str, root: Path) -> int | None:
    """The driver's number of the GPU. The driver's files have shorter bus names than NVML."""
    for folder in sorted(root.glob("proc/driver/nvidia/gpus/*")):
        if folder.name.lower().lstrip("0") == pci.lower().lstrip("0"):
            for line in (folder / "information").read_text().splitlines():
                name, _, value = line.partition(":")
                if name.strip() == "Device Minor" and value.strip().isdecimal():
                    return int(value)
    return None


# --- in the probe's child process -----------------------------------------------------------------


def _by_library() -> list[GpuFacts]:
    """The GPUs that NVIDIA's management library lists. Raises ProbeFailed."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise ProbeFailed(f"NVIDIA's management library failed: {error}") from None
    try:
        driver = _text(pynvml.nvmlSystemGetDriverVersion())
        found = []
        for index in range(pynvml.nvmlDeviceGetCount()):
            device = pynvml.nvmlDeviceGetHandleByIndex(index)
            parts = _parts(pynvml, device)
            for part in parts or [device]:
                found.append(_describe(pynvml, device, part, driver, mig=bool(parts)))
        return found
    except pynvml.NVMLError as error:
        raise ProbeFailed(f"NVIDIA's management library failed: {error}") from None
    finally:
        pynvml.nvmlShutdown()


def _parts(pynvml: ModuleType, device: Any) -> list[Any]:
    """The instances of a partitioned GPU (MIG); empty if it is not partitioned."""
    try:
        current, _ = pynvml.nvmlDeviceGetMigMode(device)
        count = pynvml.nvmlDeviceGetMaxMigDeviceCount(device) if current else 0
    except pynvml.NVMLError:  # a GPU without MIG
        return []
    parts = []
    for index in range(count):
        try:
            parts.append(pynvml.nvmlDeviceGetMigDeviceHandleByIndex(device, index))
        except pynvml.NVMLError:
            continue  # an unused instance number
    return parts


def _describe(pynvml: ModuleType, device: Any, part: Any, driver: str, *, mig: bool) -> GpuFacts:
    major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(device)
    return GpuFacts(
        uuid=_text(pynvml.nvmlDeviceGetUUID(part)),
        name=_text(pynvml.nvmlDeviceGetName(device)),
        memory_bytes=int(pynvml.nvmlDeviceGetMemoryInfo(part).total),
        backend=BACKEND,
        driver=driver,
        compute_capability=f"{major}.{minor}",
        pci=_text(pynvml.nvmlDeviceGetPciInfo(device).busId).lower(),
        mig=mig,
    )


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _confirmed(found: list[GpuFacts]) -> list[GpuFacts]:
    """Those of ``found`` that torch can use. Raises ProbeFailed if it can use none."""
    import torch

    if torch.version.hip is not None:
        raise ProbeFailed("torch is installed for AMD's GPUs (ROCm), not for NVIDIA's")
    if torch.version.cuda is None:
        raise ProbeFailed("torch is installed without CUDA; install a build of torch with it")
    if not torch.cuda.is_available():
        raise ProbeFailed(
            f"torch for CUDA {torch.version.cuda} cannot use driver {found[0].driver}"
        )
    if any(gpu.mig for gpu in found):  # torch sees one instance at a time
        return found
    return found[: torch.cuda.device_count()]
