"""GPUs, found by a short-lived child process: drivers crash and leak, so not in the agent itself.

Run as a module it is that child: it prints one JSON list of facts. NVIDIA's management library
comes first, for it is quick; torch is imported only where there is a GPU for it to confirm.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

from axiom_client.child_lifetime import end_with_parent
from axiom_protocol.messages import GpuFacts

PROBE_SECONDS_MAX = 60.0  # importing torch on a cold, busy disk; a hanging driver hangs longer
#: What a driver brings with it; where none of it changed, nor have the GPUs.
TRACES = (
    "dev/nvidiactl", "dev/nvidia[0-9]*", "dev/nvidia-caps/*", "dev/kfd", "dev/dri/renderD*",
    "dev/dxg", "proc/driver/nvidia/version",
)  # fmt: skip


class GpuProbe:
    """Remembers the last look, so that a host whose drivers stay the same pays for it once."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._traces: list[str] | None = None
        self._found: list[GpuFacts] = []

    async def gpus(self) -> list[GpuFacts]:
        """The GPUs that torch can use; none where the child fails or hangs."""
        traces = sorted(str(path) for trace in TRACES for path in self._root.glob(trace))
        if traces != self._traces or (traces and not self._found):
            nothing = not traces and sys.platform not in ("darwin", "win32")
            self._found = [] if nothing else await _ask_child()
            self._traces = traces
        return self._found


async def _ask_child() -> list[GpuFacts]:
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "axiom_client.host.gpus",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        out, _ = await asyncio.wait_for(child.communicate(), PROBE_SECONDS_MAX)
        return msgspec.json.decode(out, type=list[GpuFacts])
    except TimeoutError:
        child.kill()
        await child.wait()
        return []
    except msgspec.DecodeError:
        return []
    except asyncio.CancelledError:  # the agent goes: nothing of it may stay behind
        child.kill()
        await child.wait()
        raise


def visible(gpus: Sequence[GpuFacts], variable: str | None) -> list[GpuFacts]:
    """Those that CUDA_VISIBLE_DEVICES leaves to this process, as Slurm and containers set it.

    Numbers or the beginnings of UUIDs; as in CUDA, what follows the first bad one is not seen.
    """
    if variable is None:
        return list(gpus)
    seen: list[GpuFacts] = []
    for word in filter(None, (part.strip() for part in variable.split(","))):
        if word.isdigit():
            named = list(gpus[int(word) : int(word) + 1])
        else:
            named = [gpu for gpu in gpus if gpu.uuid.startswith(word)][:1]
        if not named or named[0] in seen:
            break
        seen += named
    return seen


# --- in the child ---------------------------------------------------------------------------------


def _nvidia() -> list[GpuFacts]:
    """What NVIDIA's management library sees."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    driver = _text(pynvml.nvmlSystemGetDriverVersion())
    found = []
    for index in range(pynvml.nvmlDeviceGetCount()):
        device = pynvml.nvmlDeviceGetHandleByIndex(index)
        parts = _parts(pynvml, device)
        for part in parts or [device]:
            found.append(_describe(pynvml, device, part, driver, mig=bool(parts)))
    pynvml.nvmlShutdown()
    return found


def _parts(pynvml: ModuleType, device: Any) -> list[Any]:
    """The instances of a GPU that its owner divided (MIG); none of one that is whole."""
    try:
        current, _ = pynvml.nvmlDeviceGetMigMode(device)
        count = pynvml.nvmlDeviceGetMaxMigDeviceCount(device) if current else 0
    except pynvml.NVMLError:  # a GPU that cannot be divided
        return []
    parts = []
    for index in range(count):
        try:
            parts.append(pynvml.nvmlDeviceGetMigDeviceHandleByIndex(device, index))
        except pynvml.NVMLError:
            continue  # an instance that was not made
    return parts


def _describe(pynvml: ModuleType, device: Any, part: Any, driver: str, *, mig: bool) -> GpuFacts:
    major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(device)
    return GpuFacts(
        uuid=_text(pynvml.nvmlDeviceGetUUID(part)),
        name=_text(pynvml.nvmlDeviceGetName(device)),
        memory_bytes=int(pynvml.nvmlDeviceGetMemoryInfo(part).total),
        driver=driver,
        compute_capability=f"{major}.{minor}",
        pci=_text(pynvml.nvmlDeviceGetPciInfo(device).busId).lower(),
        mig=mig,
    )


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _by_torch(nvidia: list[GpuFacts]) -> list[GpuFacts]:
    """Those that torch can use: NVIDIA's confirmed, ROCm's and Apple's as torch describes them."""
    import torch

    if torch.backends.mps.is_available():
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return [GpuFacts(uuid="mps", name="Apple GPU", memory_bytes=total, backend="mps")]
    if not torch.cuda.is_available():
        return []
    if torch.version.hip is None:
        whole = not any(gpu.mig for gpu in nvidia)  # torch sees one instance at a time
        return nvidia[: torch.cuda.device_count()] if whole else nvidia
    devices = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return [
        GpuFacts(
            uuid=str(index),  # what HIP_VISIBLE_DEVICES surely takes
            name=device.name,
            memory_bytes=device.total_memory,
            backend="rocm",
            pci=_pci(device),
        )
        for index, device in enumerate(devices)
    ]


def _pci(device: Any) -> str:
    """The identity on the bus, where this version of torch tells it."""
    numbers = [getattr(device, f"pci_{part}_id", None) for part in ("domain", "bus", "device")]
    if any(number is None for number in numbers):
        return ""
    domain, bus, slot = map(int, numbers)  # type: ignore[arg-type]
    return f"{domain:04x}:{bus:02x}:{slot:02x}.0"


def _child() -> None:
    end_with_parent()
    nvidia = visible(_nvidia(), os.environ.get("CUDA_VISIBLE_DEVICES"))
    others = sys.platform == "darwin" or Path("/dev/kfd").exists()
    usable: list[GpuFacts] = []
    if (nvidia or others) and importlib.util.find_spec("torch"):
        usable = _by_torch(nvidia)
    sys.stdout.buffer.write(msgspec.json.encode(usable))


if __name__ == "__main__":
    _child()
