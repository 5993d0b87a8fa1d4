"""GPUs: which are ours, through which nodes one is driven, what a GPU's task sees; when to look."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import msgspec
import pytest

from axiom_client.host import gpus as probing
from axiom_client.host.devices import device_nodes
from axiom_client.host.gpus import GpuProbe, visible
from axiom_client.run.spec import TaskFinished
from axiom_protocol.messages import GpuFacts
from tests.adapters.running import finish, make_spec, script

GIB = 1 << 30
UUIDS = ("GPU-8a3c1f52-aaaa", "GPU-8a3c9999-bbbb", "GPU-1de27c90-cccc")
PCI = ("0000:41:00.0", "0000:61:00.0", "0000:e1:00.0")
ALL = [
    GpuFacts(uuid=uuid, name="RTX", memory_bytes=24 * GIB, pci=pci)
    for uuid, pci in zip(UUIDS, PCI, strict=True)
]


@pytest.mark.parametrize(
    ("variable", "seen"),
    [
        (None, [0, 1, 2]),
        ("", []),
        ("0", [0]),
        ("2,0", [2, 0]),  # in this order, as CUDA numbers them
        ("1, 2", [1, 2]),
        ("GPU-1de27c90-cccc", [2]),
        ("GPU-1de2", [2]),  # the beginning of one is enough
        ("0,7,1", [0]),  # what follows a bad one is not seen
        ("-1", []),
        ("1,1", [1]),
        ("nonsense", []),
    ],
)
def test_cuda_visible_devices_of_the_agent_is_respected(
    variable: str | None, seen: list[int]
) -> None:
    assert visible(ALL, variable) == [ALL[i] for i in seen]


def nvidia_machine(root: Path) -> None:
    """The files of a driver with three GPUs, numbered otherwise than the bus counts them."""
    nodes = ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia0", "nvidia1", "nvidia2",
             "nvidia-modeset", "dri/renderD128")  # fmt: skip
    for node in nodes:
        (root / "dev" / node).parent.mkdir(parents=True, exist_ok=True)
        (root / "dev" / node).touch()
    for pci, minor in zip(PCI, (2, 0, 1), strict=True):
        information = root / "proc/driver/nvidia/gpus" / pci / "information"
        information.parent.mkdir(parents=True)
        information.write_text(f"Model: \t\t RTX\nIRQ:   \t\t 90\nDevice Minor: \t {minor}\n")


def test_a_task_gets_its_own_gpu_s_node_and_no_other_s(tmp_path: Path) -> None:
    nvidia_machine(tmp_path)
    shared = ["/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools", "/dev/dxg"]
    own = [set(device_nodes(gpu, tmp_path)) - set(shared) for gpu in ALL]
    assert own == [{"/dev/nvidia2"}, {"/dev/nvidia0"}, {"/dev/nvidia1"}]
    longer = msgspec.structs.replace(ALL[0], pci="00000000:41:00.0")  # as the library writes it
    assert set(device_nodes(longer, tmp_path)) - set(shared) == {"/dev/nvidia2"}


def test_a_part_of_a_gpu_needs_the_nodes_of_its_capabilities_too(tmp_path: Path) -> None:
    nvidia_machine(tmp_path)
    part = msgspec.structs.replace(ALL[1], mig=True)
    assert "/dev/nvidia-caps" in device_nodes(part, tmp_path)
    assert "/dev/nvidia-caps" not in device_nodes(ALL[1], tmp_path)


def test_a_gpu_that_no_file_names_gets_all_nodes_of_the_driver(tmp_path: Path) -> None:
    nvidia_machine(tmp_path)
    unknown = msgspec.structs.replace(ALL[0], pci="0000:ff:00.0")
    assert {"/dev/nvidia0", "/dev/nvidia1", "/dev/nvidia2"} <= set(device_nodes(unknown, tmp_path))


def test_nodes_of_rocm_and_of_apple(tmp_path: Path) -> None:
    amd = GpuFacts(uuid="0", name="MI210", memory_bytes=64 * GIB, backend="rocm", pci=PCI[0])
    (tmp_path / "sys/bus/pci/devices" / PCI[0] / "drm/renderD129").mkdir(parents=True)
    assert device_nodes(amd, tmp_path) == ["/dev/kfd", "/dev/dri/renderD129"]
    apple = GpuFacts(uuid="mps", name="Apple GPU", memory_bytes=GIB, backend="mps")
    assert device_nodes(apple, tmp_path) == []


def test_a_driver_that_loads_after_the_agent_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    async def child() -> list[GpuFacts]:
        asked.append(True)
        return ALL[: len(asked) - 1]  # the first time it is still starting

    monkeypatch.setattr(probing, "_ask_child", child)
    monkeypatch.setattr(sys, "platform", "linux")
    probe = GpuProbe(tmp_path)
    assert asyncio.run(probe.gpus()) == []
    assert not asked  # nothing of a driver is there: no child is started for it
    nvidia_machine(tmp_path)
    assert asyncio.run(probe.gpus()) == []
    assert asyncio.run(probe.gpus()) == ALL[:1]
    assert asyncio.run(probe.gpus()) == ALL[:1]
    assert len(asked) == 2  # found, and nothing changed: not asked again


def test_the_probe_really_runs_in_a_child_and_finds_what_is_here() -> None:
    found = asyncio.run(probing._ask_child())
    assert all(gpu.memory_bytes > 0 for gpu in found)


class _Library(ModuleType):
    """nvidia-ml-py as it answers on a machine with a whole GPU and one divided in two."""

    class NVMLError(Exception):
        """Its own error."""

    def nvmlInit(self) -> None: ...
    def nvmlShutdown(self) -> None: ...

    def nvmlSystemGetDriverVersion(self) -> bytes:
        return b"580.126.09"  # older versions of the library give bytes

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:
        return f"gpu{index}"

    def nvmlDeviceGetMigMode(self, device: str) -> tuple[int, int]:
        if device == "gpu0":
            raise self.NVMLError
        return 1, 1

    def nvmlDeviceGetMaxMigDeviceCount(self, device: str) -> int:
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, device: str, index: int) -> str:
        if index > 1:
            raise self.NVMLError
        return f"{device}-part{index}"

    def nvmlDeviceGetCudaComputeCapability(self, device: str) -> tuple[int, int]:
        return 8, 9

    def nvmlDeviceGetUUID(self, device: str) -> str:
        return f"{'MIG' if 'part' in device else 'GPU'}-{device}"

    def nvmlDeviceGetName(self, device: str) -> str:
        return "NVIDIA A100"

    def nvmlDeviceGetMemoryInfo(self, device: str) -> Any:
        return SimpleNamespace(total=(10 if "part" in device else 80) * GIB)

    def nvmlDeviceGetPciInfo(self, device: str) -> Any:
        return SimpleNamespace(busId=b"00000000:41:00.0")


def test_what_the_management_library_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", _Library("pynvml"))
    whole, *parts = probing._nvidia()
    assert whole.uuid == "GPU-gpu0"
    assert (whole.memory_bytes, whole.mig, whole.driver) == (80 * GIB, False, "580.126.09")
    assert (whole.compute_capability, whole.pci) == ("8.9", "00000000:41:00.0")
    assert [(p.uuid, p.memory_bytes, p.mig) for p in parts] == [
        ("MIG-gpu1-part0", 10 * GIB, True), ("MIG-gpu1-part1", 10 * GIB, True),
    ]  # fmt: skip


def test_a_gpu_s_task_sees_that_gpu_alone_and_caches_in_its_own_folder(tmp_path: Path) -> None:
    """A real confined process; /dev/full stands for its GPU's node, /dev/ptmx for another's."""
    body = f"""
        import os
        value.append(os.environ["CUDA_VISIBLE_DEVICES"] == {UUIDS[2]!r})
        value.append(os.environ["HIP_VISIBLE_DEVICES"] == {UUIDS[2]!r})
        value.append(task.device == "cuda:0")
        open("/dev/full", "rb").close()
        value.append(1)
        try:
            open("/dev/ptmx", "rb")
        except PermissionError:
            value.append(1)
        value.append(os.path.expanduser("~/.nv").startswith(str(task.folder)))
        value.append(os.environ["TMPDIR"] == str(task.folder))
    """
    spec = make_spec(tmp_path, script(body))
    spec = msgspec.structs.replace(
        spec, device="cuda:0", gpu_uuid=UUIDS[2], gpu_nodes=["/dev/full"]
    )
    finished: TaskFinished = finish(spec)
    assert finished.outcome == "success", finished.message
    assert finished.result["value"] == [1.0] * 7


def test_a_task_for_cores_sees_no_gpu(tmp_path: Path) -> None:
    body = 'import os; value.append(os.environ["CUDA_VISIBLE_DEVICES"] == "")'
    for prefer in ("warm", "cold"):
        finished = finish(make_spec(tmp_path, script(body)), prefer)  # type: ignore[arg-type]
        assert finished.result["value"] == [1.0], finished.message
