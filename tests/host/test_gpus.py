"""GPUs: which may be used, their device nodes, what a GPU task sees, and when they are searched."""

from __future__ import annotations

import asyncio
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import msgspec
import pytest

from axiom_client.decide.task_run import Environment, TaskFinished
from axiom_client.host.gpu import child as probe_child
from axiom_client.host.gpu import mps, nvidia, rocm, vendors
from axiom_client.host.gpu import probe as probing
from axiom_client.host.gpu.probe import GpuProbe, GpuReport
from axiom_client.host.gpu.vendor import ProbeFailed
from axiom_client.host.gpu.visible import visible
from axiom_client.sandbox.selftest import SandboxReport, self_test
from axiom_protocol.messages import GpuFacts
from tests.support.running import LIMITS, finish, make_spec, script, with_pool

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


def nodes(gpu: GpuFacts, root: Path) -> set[str]:
    """The device files of a task on this GPU."""
    return set(nvidia.access([gpu], root).devices)


def test_a_task_gets_its_own_gpu_s_node_and_no_other_s(tmp_path: Path) -> None:
    nvidia_machine(tmp_path)
    shared = ["/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools", "/dev/dxg"]
    own = [nodes(gpu, tmp_path) - set(shared) for gpu in ALL]
    assert own == [{"/dev/nvidia2"}, {"/dev/nvidia0"}, {"/dev/nvidia1"}]
    longer = msgspec.structs.replace(ALL[0], pci="00000000:41:00.0")  # as the library writes it
    assert nodes(longer, tmp_path) - set(shared) == {"/dev/nvidia2"}


def test_a_part_of_a_gpu_needs_the_nodes_of_its_capabilities_too(tmp_path: Path) -> None:
    nvidia_machine(tmp_path)
    part = msgspec.structs.replace(ALL[1], mig=True)
    assert "/dev/nvidia-caps" in nodes(part, tmp_path)
    assert "/dev/nvidia-caps" not in nodes(ALL[1], tmp_path)


def test_a_gpu_that_no_file_names_gets_all_nodes_of_the_driver(tmp_path: Path) -> None:
    nvidia_machine(tmp_path)
    unknown = msgspec.structs.replace(ALL[0], pci="0000:ff:00.0")
    assert {"/dev/nvidia0", "/dev/nvidia1", "/dev/nvidia2"} <= nodes(unknown, tmp_path)


def test_nodes_of_rocm_and_of_apple(tmp_path: Path) -> None:
    amd = GpuFacts(uuid="0", name="MI210", memory_bytes=64 * GIB, backend="rocm", pci=PCI[0])
    (tmp_path / "sys/bus/pci/devices" / PCI[0] / "drm/renderD129").mkdir(parents=True)
    assert rocm.access([amd], tmp_path).devices == ("/dev/kfd", "/dev/dri/renderD129")
    apple = GpuFacts(uuid="mps", name="Apple GPU", memory_bytes=GIB, backend="mps")
    assert mps.access([apple], tmp_path).devices == ()


def test_a_driver_that_loads_after_the_agent_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    async def child() -> GpuReport:
        asked.append(True)
        return GpuReport(ALL[: len(asked) - 1])  # the first time it is still starting

    monkeypatch.setattr(probing, "_ask_child", child)
    monkeypatch.setattr(sys, "platform", "linux")
    probe = GpuProbe(tmp_path)
    assert asyncio.run(probe.report()).gpus == []
    assert not asked  # nothing of a driver is there: no child is started for it
    nvidia_machine(tmp_path)
    assert asyncio.run(probe.report()).gpus == []
    assert asyncio.run(probe.report()).gpus == ALL[:1]
    assert asyncio.run(probe.report()).gpus == ALL[:1]
    assert len(asked) == 2  # found, and nothing changed: not asked again


def test_the_probe_really_runs_in_a_child_and_finds_what_is_here() -> None:
    found = asyncio.run(probing._ask_child())
    assert all(gpu.memory_bytes > 0 for gpu in found.gpus)


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


def test_facts_from_the_management_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", _Library("pynvml"))
    whole, *parts = nvidia._by_library()
    assert whole.uuid == "GPU-gpu0"
    assert (whole.memory_bytes, whole.mig, whole.driver) == (80 * GIB, False, "580.126.09")
    assert (whole.compute_capability, whole.pci) == ("8.9", "00000000:41:00.0")
    assert [(p.uuid, p.memory_bytes, p.mig) for p in parts] == [
        ("MIG-gpu1-part0", 10 * GIB, True), ("MIG-gpu1-part1", 10 * GIB, True),
    ]  # fmt: skip


def test_a_driver_that_does_not_answer_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    library = _Library("pynvml")
    monkeypatch.setitem(sys.modules, "pynvml", library)

    def refuse() -> None:
        raise library.NVMLError("Driver/library version mismatch")

    monkeypatch.setattr(library, "nvmlInit", refuse)
    with pytest.raises(ProbeFailed, match="version mismatch"):
        nvidia._by_library()


def test_a_gpu_whose_tasks_cannot_be_confined_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    apple = [GpuFacts(uuid="mps", name="Apple GPU", memory_bytes=GIB, backend="mps")]
    monkeypatch.setattr(sys, "platform", "darwin")
    refused = SandboxReport(mode="seatbelt", ok=False, reason="not enforced: no network: TCP")
    monkeypatch.setattr(probe_child, "self_test", lambda driver: refused)
    with pytest.raises(ProbeFailed, match="mps: its tasks cannot be confined: not enforced"):
        probe_child.confinable(apple, mps)
    held = SandboxReport(mode="seatbelt", ok=True)
    monkeypatch.setattr(probe_child, "self_test", lambda driver: held)
    assert probe_child.confinable(apple, mps) == apple


def test_a_vendor_that_fails_does_not_hide_another_s_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(environment: Any) -> list[GpuFacts]:
        raise RuntimeError("no such symbol")

    monkeypatch.setattr(probe_child, "present", lambda: [rocm, mps])
    monkeypatch.setattr(rocm, "probe", explode)
    monkeypatch.setattr(mps, "probe", lambda environment: ALL[:1])
    report = probe_child.report()
    assert report.gpus == ALL[:1]
    assert report.problems == ["rocm: RuntimeError: no such symbol"]


def torch_built_for(cuda: str | None, hip: str | None) -> ModuleType:
    """torch as it answers on a host with one GPU that it can use."""
    built = ModuleType("torch")
    built.__spec__ = ModuleSpec("torch", None)
    card = SimpleNamespace(
        name="RX 7900", total_memory=24 * GIB, pci_domain_id=0, pci_bus_id=3, pci_device_id=0
    )
    built.__dict__["version"] = SimpleNamespace(cuda=cuda, hip=hip)
    built.__dict__["cuda"] = SimpleNamespace(
        is_available=lambda: True, device_count=lambda: 1, get_device_properties=lambda index: card
    )
    return built


@pytest.mark.parametrize(
    ("cuda", "hip", "backends", "problem"),
    [
        ("12.8", None, ["cuda"], "torch is installed without ROCm"),
        (None, "6.2", ["rocm"], "torch is installed for AMD's GPUs (ROCm), not for NVIDIA's"),
    ],
)
def test_of_two_vendors_torch_uses_one_and_the_other_has_a_reason(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cuda: str | None,
    hip: str | None,
    backends: list[str],
    problem: str,
) -> None:
    nvidia_machine(tmp_path)
    (tmp_path / "dev/kfd").touch()
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(probe_child, "present", lambda: vendors.present(tmp_path))
    monkeypatch.setitem(sys.modules, "pynvml", _Library("pynvml"))
    monkeypatch.setattr(_Library, "nvmlDeviceGetCount", lambda self: 1)
    monkeypatch.setitem(sys.modules, "torch", torch_built_for(cuda, hip))
    assert vendors.present(tmp_path) == [nvidia, rocm]
    report = probe_child.report()
    assert [gpu.backend for gpu in report.gpus] == backends
    assert [text for text in report.problems if problem in text] == report.problems


def test_a_task_reaches_no_device_of_the_other_vendor(tmp_path: Path) -> None:
    nvidia_machine(tmp_path)
    amd = GpuFacts(uuid="0", name="RX", memory_bytes=GIB, backend="rocm", pci="0000:03:00.0")
    (tmp_path / "sys/bus/pci/devices/0000:03:00.0/drm/renderD128").mkdir(parents=True)
    assert not [node for node in nodes(ALL[0], tmp_path) if "dri" in node or "kfd" in node]
    assert rocm.access([amd], tmp_path).devices == ("/dev/kfd", "/dev/dri/renderD128")


@pytest.mark.parametrize(
    ("variable", "count", "names"),
    [(None, 2, ["0", "1"]), ("2,3", 2, ["2", "3"]), ("GPU-a1, 1", 2, ["GPU-a1", "1"]),
     ("3,9", 1, ["3"])],
)  # fmt: skip
def test_hip_visible_devices_of_the_agent_is_mapped(
    variable: str | None, count: int, names: list[str]
) -> None:
    assert rocm._host_numbers(variable, count) == names


def test_a_task_s_driver_access_follows_its_vendor() -> None:
    assert vendors.access([]) is None
    assert vendors.torch_device([]) == "cpu"
    both = vendors.access(ALL[:2])
    assert both is not None
    assert both.environment == {"CUDA_VISIBLE_DEVICES": f"{UUIDS[0]},{UUIDS[1]}"}
    assert vendors.torch_device(ALL[:1]) == "cuda:0"


@pytest.mark.parametrize("environment", ["numpy", "torch"])
def test_a_gpu_task_sees_only_its_gpu_and_caches_in_its_own_folder(
    tmp_path: Path, environment: Environment
) -> None:
    """A real confined process; /dev/full stands for its GPU's node, /dev/ptmx for another's."""
    body = f"""
        import os
        value.append(os.environ["CUDA_VISIBLE_DEVICES"] == {UUIDS[2]!r})
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
    driver = msgspec.structs.replace(nvidia.access(ALL[2:]), devices=("/dev/full",))
    spec = make_spec(tmp_path, script(body, environment), environment=environment)
    spec = msgspec.structs.replace(spec, device="cuda:0", driver=driver)
    finished: TaskFinished = finish(spec)
    assert finished.outcome == "success", finished.message
    assert finished.result["value"] == [1.0] * 6


def test_only_the_rights_that_a_driver_needs_are_open(tmp_path: Path) -> None:
    """What libcuda does, and what its rights must not open, tried in a real confined process."""
    body = """
        import errno, fcntl, mmap, os, socket
        def code(step):
            try:
                step()
            except OSError as error:
                return error.errno
            return 0
        door = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        door.bind("\\0axiom-test-%d" % os.getpid())
        door.listen()
        own = f"/proc/self/task/{os.getpid()}/comm"
        null = open("/dev/full", "rb")
        value += [code(lambda: open(own, "w").write("x")),
                  code(lambda: mmap.mmap(-1, 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)),
                  code(lambda: fcntl.ioctl(null, 0x46C8, bytes(8))) == errno.ENOTTY and 0]
        def connect():
            socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET).connect("\\0other")
        refused = [
            code(lambda: socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)),
            code(lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM)),
            code(door.accept),
            code(connect),
            code(lambda: fcntl.ioctl(null, 0x8901, bytes(4))),
            code(lambda: fcntl.ioctl(null, 0x5452, bytes(4))),
            code(lambda: fcntl.ioctl(door, 0x8912, bytes(16))),
            code(lambda: open("/proc/self/oom_score_adj", "w").write("0")),
            code(lambda: open("/proc/self/autogroup", "w").write("0")),
            code(lambda: socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET).bind("here")),
        ]
        value += [0 if refusal in (errno.EPERM, errno.EACCES) else 100 + i
                  for i, refusal in enumerate(refused)]
    """
    driver = msgspec.structs.replace(nvidia.access(ALL[2:]), devices=("/dev/full",))
    spec = make_spec(tmp_path, script(body))
    finished: TaskFinished = finish(msgspec.structs.replace(spec, device="cuda:0", driver=driver))
    assert finished.outcome == "success", finished.message
    assert finished.result["value"] == [0.0] * 13


def test_the_self_test_holds_under_a_driver_s_rules() -> None:
    report = self_test(nvidia.access(ALL[:1]))
    assert report.ok, [p for p in report.protections if not p.enforced]
    assert "no connections to its socket" in [p.name for p in report.protections]


def test_shared_memory_of_a_gpu_s_task_is_counted_by_the_agent(tmp_path: Path) -> None:
    body = """
        import mmap, time
        shared = mmap.mmap(-1, 300_000_000)
        for start in range(0, len(shared), 4096):
            shared[start] = 1
        time.sleep(30)
    """
    driver = msgspec.structs.replace(nvidia.access(ALL[2:]), devices=(), memory_bytes=0)
    limits = msgspec.structs.replace(LIMITS, memory_bytes=100_000_000)
    spec = make_spec(tmp_path, script(body), limits=limits)
    finished: TaskFinished = finish(msgspec.structs.replace(spec, device="cuda:0", driver=driver))
    assert finished.outcome == "over_memory", finished.message
    assert "100000000 bytes allowed" in finished.message
    assert finished.elapsed_seconds < 20


def test_a_device_without_a_driver_is_refused(tmp_path: Path) -> None:
    spec = make_spec(tmp_path, script("value.append(1)"))
    finished = finish(msgspec.structs.replace(spec, device="cuda:0"))
    assert finished.outcome == "failed"
    assert "driver" in finished.message


def test_a_task_for_cores_sees_no_gpu(tmp_path: Path) -> None:
    body = 'import os; value.append(os.environ["CUDA_VISIBLE_DEVICES"] == "")'
    for prefer in ("warm", "cold"):
        spec = make_spec(tmp_path, script(body))
        finished = with_pool(
            lambda recorder, spec=spec: recorder.finish(spec),
            prefer,  # type: ignore[arg-type]
            hide_gpus=vendors.hidden(),
        )
        assert finished.result["value"] == [1.0], finished.message
