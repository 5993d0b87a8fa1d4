"""GPUs, found by a short-lived child process: drivers crash and leak, so not in the agent itself.

Run as a module it is that child: it prints one JSON list of facts. NVIDIA's management library
comes first, for it is quick; torch is imported only where there is a GPU for it to confirm.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import sys
from pathlib import Path

import msgspec

from axiom_client.family import end_with_parent
from axiom_protocol.messages import GpuFacts

PROBE_SECONDS_MAX = 60.0  # importing torch on a cold, busy disk; a hanging driver hangs longer
NODES = (Path("/dev/nvidiactl"), Path("/dev/kfd"), Path("/dev/dxg"))


def may_have_gpu() -> bool:
    """Whether a child is worth starting: a driver's node is there, or the platform has none."""
    return sys.platform in ("darwin", "win32") or any(node.exists() for node in NODES)


async def probe_gpus() -> list[GpuFacts]:
    """The GPUs that torch can use; none where the child fails or hangs."""
    if not may_have_gpu():
        return []
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
        major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(device)
        found.append(
            GpuFacts(
                uuid=_text(pynvml.nvmlDeviceGetUUID(device)),
                name=_text(pynvml.nvmlDeviceGetName(device)),
                memory_bytes=int(pynvml.nvmlDeviceGetMemoryInfo(device).total),
                driver=driver,
                compute_capability=f"{major}.{minor}",
            )
        )
    pynvml.nvmlShutdown()
    return found


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
        return nvidia[: torch.cuda.device_count()]
    devices = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return [
        GpuFacts(
            uuid=str(getattr(device, "uuid", index)),
            name=device.name,
            memory_bytes=device.total_memory,
            backend="rocm",
        )
        for index, device in enumerate(devices)
    ]


def _child() -> None:
    end_with_parent()
    nvidia = _nvidia()
    others = sys.platform == "darwin" or Path("/dev/kfd").exists()
    usable: list[GpuFacts] = []
    if (nvidia or others) and importlib.util.find_spec("torch"):
        usable = _by_torch(nvidia)
    sys.stdout.buffer.write(msgspec.json.encode(usable))


if __name__ == "__main__":
    _child()
