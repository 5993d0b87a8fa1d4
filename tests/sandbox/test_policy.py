"""The five sandbox configurations derived from the policy, checked without the real systems."""

from __future__ import annotations

import errno
import resource
import struct

import msgspec
import pytest

from axiom_client.host.gpu import nvidia
from axiom_client.sandbox import bubblewrap, landlock, limits, macos, seccomp, windows
from axiom_client.sandbox.errors import SandboxError
from axiom_client.sandbox.policy import (
    ABSENT,
    ALLOWED,
    CONDITIONAL,
    Limits,
    Policy,
    syscall_rules,
)
from axiom_client.sandbox.syscalls import AARCH64, ARCHITECTURES, X86_64
from axiom_protocol.messages import GpuFacts

POLICY = Policy(
    folder="/task",
    read_only=("/usr/lib", '/odd "name"'),
    limits=Limits(memory_bytes=1_000_000, file_bytes=5_000, cpu_seconds=2.5),
)
GPU = GpuFacts(uuid="GPU-1", name="H200", memory_bytes=1, pci="0000:06:00.0")
DRIVER = nvidia.access([GPU])
PID = 4242
ALLOW, KILL = 0x7FFF0000, 0x80000000
REFUSE, MISSING = 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS


def verdict(machine: str, number: int, *arguments: int, arch: int = 0, gpu: bool = False) -> int:
    """Run the packed program on one call, as the kernel would."""
    policy = msgspec.structs.replace(POLICY, driver=DRIVER if gpu else None, threads=gpu)
    packed = seccomp.pack(seccomp.template(seccomp.build(policy, machine)), PID)
    audit = arch or ARCHITECTURES[machine][0]
    padded = [*arguments, *[0] * (6 - len(arguments))]
    data = struct.pack("<IIQ6Q", number, audit, 0, *(a & (2**64 - 1) for a in padded))
    program = list(struct.iter_unpack("=HBBI", packed))
    accumulator = position = 0
    while True:
        code, yes, no, value = program[position]
        position += 1
        if code == 0x20:
            accumulator = struct.unpack_from("<I", data, value)[0]
        elif code == 0x54:
            accumulator &= value
        elif code == 0x05:
            position += value
        elif code == 0x15:
            position += yes if accumulator == value else no
        elif code == 0x35:
            position += yes if accumulator >= value else no
        else:
            assert code == 0x06
            return int(value)


@pytest.mark.parametrize(("machine", "table"), [("x86_64", X86_64), ("aarch64", AARCH64)])
def test_every_call_has_the_verdict_that_the_policy_gives_it(
    machine: str, table: dict[str, int]
) -> None:
    for name in ALLOWED:
        if name in table:
            assert verdict(machine, table[name]) == ALLOW, name
    for name in ABSENT:
        if name in table:
            assert verdict(machine, table[name]) == MISSING, name
    named = {table[name] for name in (*ALLOWED, *ABSENT) if name in table}
    named |= {table[rule.name] for rule in CONDITIONAL if rule.name in table}
    for number in range(450):
        if number not in named:
            assert verdict(machine, number) == REFUSE, number
    assert verdict(machine, 460) == MISSING


@pytest.mark.parametrize(("machine", "table"), [("x86_64", X86_64), ("aarch64", AARCH64)])
def test_conditions(machine: str, table: dict[str, int]) -> None:
    def of(name: str, *arguments: int) -> int:
        return verdict(machine, table[name], *arguments)

    assert of("kill", PID) == ALLOW
    for other in (0, 1, PID + 1, -1, -PID):
        assert of("kill", other) == REFUSE
    assert of("tgkill", PID, PID + 5) == ALLOW
    assert of("tgkill", PID + 1, PID) == REFUSE
    assert of("sendto", 3, 0, 0, 0, 0) == ALLOW
    assert of("sendto", 3, 0, 0, 0, 1 << 40) == REFUSE
    assert of("socketpair", 1, 1) == ALLOW
    assert of("socketpair", 1, 1 | 0o2000000) == ALLOW
    assert of("socketpair", 1, 2) == REFUSE
    assert of("socketpair", 2, 1) == REFUSE
    assert of("prlimit64", 0, 7, 0, 1 << 40) == ALLOW
    assert of("prlimit64", 0, 7, 1 << 40) == REFUSE
    assert of("prlimit64", 1, 7, 0) == REFUSE
    assert of("openat", 0, 0, 0o100) == ALLOW
    assert of("openat", 0, 0, 0o1000) == REFUSE
    assert of("openat", 0, 0, 0o1001) == ALLOW
    assert of("openat", 0, 0, 0o1002) == ALLOW
    assert of("fcntl", 3, 8, 1) == REFUSE
    assert of("fcntl", 3, 4) == ALLOW
    assert of("prctl", 1, 0) == REFUSE
    assert of("prctl", 15, 0) == ALLOW
    assert of("ioctl", 0, 0x5412) == REFUSE
    assert of("clone", 0x10000) == REFUSE


def test_a_gpu_task_may_have_threads_and_drive_its_device_but_no_processes() -> None:
    def ioctl(request: int) -> int:
        return verdict("x86_64", X86_64["ioctl"], 3, request, gpu=True)

    for request in (0xC020_462A, 0xC004_46C9, 0x49, 0x3000_0001, 0x5401):
        assert ioctl(request) == ALLOW, hex(request)
    for request in (0x8901, 0x8902, 0x8912, 0x5452, 0x5412, 0x541C, 0x3000_0003):
        assert ioctl(request) == REFUSE, hex(request)
    assert verdict("x86_64", X86_64["socket"], 1, 5 | 0o2000000, gpu=True) == ALLOW
    assert verdict("x86_64", X86_64["socket"], 1, 1, gpu=True) == REFUSE
    assert verdict("x86_64", X86_64["socket"], 2, 5, gpu=True) == REFUSE
    assert verdict("x86_64", X86_64["socket"], 1, 5) == REFUSE
    assert verdict("x86_64", X86_64["clone"], 0x3D0F00, gpu=True) == ALLOW
    assert verdict("x86_64", X86_64["clone"], 17, gpu=True) == REFUSE
    assert verdict("x86_64", X86_64["clone"], 0x10010000, gpu=True) == REFUSE
    names = [which for which, _ in limits.resource_limits(POLICY, (0, 0))]
    gpu = msgspec.structs.replace(POLICY, driver=DRIVER)
    assert len(limits.resource_limits(gpu, (0, 0))) == len(names) - 1  # no address-space limit


def test_other_instruction_sets_end_the_process() -> None:
    assert verdict("x86_64", 20, arch=0x40000003) == KILL  # i386
    assert verdict("x86_64", 39 | 0x40000000) == KILL  # x32
    assert verdict("aarch64", 20, arch=0x40000028) == KILL  # 32-bit ARM


def test_every_call_that_the_policy_names_has_a_number() -> None:
    """A call without a number in syscalls.py would stay refused, without a word."""
    known = {name for _, table in ARCHITECTURES.values() for name in table}
    allowed, rules = syscall_rules(msgspec.structs.replace(POLICY, driver=DRIVER, threads=True))
    assert {*allowed, *(rule.name for rule in rules)} <= known


def test_unknown_processor_is_refused() -> None:
    with pytest.raises(SandboxError, match="mips"):
        seccomp.build(POLICY, "mips")


def test_the_program_fits_the_kernels_limit() -> None:
    for machine in ARCHITECTURES:
        assert len(seccomp.build(POLICY, machine)) < 4096


def test_landlock_handles_all_that_each_abi_has() -> None:
    assert len(landlock.handled(1)) == 8
    assert struct.unpack("=Q", landlock.handled(1))[0] == 2**13 - 1
    assert struct.unpack("=Q", landlock.handled(3))[0] == 2**15 - 1
    assert struct.unpack("=QQ", landlock.handled(4))[1] == 3
    assert struct.unpack("=QQQ", landlock.handled(9)) == (2**16 - 1, 3, 3)
    paths = dict(landlock.rules(POLICY) + landlock.own_rules(POLICY))
    assert paths["/usr/lib"] & ~0b1100 == 0  # read files, read folders, nothing else
    for forbidden in (1 << 0, 1 << 6, 1 << 9, 1 << 10, 1 << 11, 1 << 12):
        assert not paths["/task"] & forbidden  # exec, devices, sockets, fifos, symlinks


def test_memory_counts_from_what_the_libraries_take() -> None:
    held = (10_000, 3_000)
    found = dict(limits.resource_limits(POLICY, held))
    assert (1_010_000, 1_010_000) in found.values()
    assert (1_003_000, 1_003_000) in found.values()
    assert (3, 5) in found.values()  # CPU seconds, rounded up, and the grace


def test_seatbelt_profile_denies_by_default_and_quotes_paths() -> None:
    text = macos.profile(POLICY)
    assert text.startswith("(version 1)\n(deny default)\n")
    assert '(allow file-read* file-write* (subpath "/task"))' in text
    assert '(allow file-read* (subpath "/odd \\"name\\""))' in text
    for denied in ("(deny network*)", "(deny process-fork)", "(deny process-exec*)"):
        assert denied in text
    assert text.count("(") == text.count(")")


def test_windows_job_is_one_process_that_dies_with_the_agent() -> None:
    job = windows.job_attributes(POLICY)
    assert job.active_processes == 1
    assert job.limit_flags & 0x2000  # kill on job close
    assert job.process_time_ticks == 25_000_000
    assert [len(data) for _, data in job.settings()] == [144, 4]
    nested = windows.job_attributes(POLICY, nested=True)
    assert [kind for kind, _ in nested.settings()] == [9]  # Windows nests no job with UI limits
    capped = windows.job_attributes(POLICY, cores=192)
    assert capped.settings()[-1] == (15, struct.pack("<II", 5, 53))  # one core of 192, rounded up
    container = windows.container_attributes(POLICY, "axiom-task-1")
    assert container.capabilities == (windows.READ_CAPABILITY,)
    assert container.read_only == ()  # paths of this system are not those of Windows
    assert container.read_write == ("/task",)


def test_bubblewrap_leaves_nothing_writable_but_the_folder() -> None:
    line = bubblewrap.wrap("bwrap", POLICY, ["python"])
    assert line[0] == "bwrap"
    assert line[-2:] == ["--", "python"]
    binds = [line[i + 1] for i, word in enumerate(line) if word == "--bind"]
    assert binds == ["/task"]
    assert "--unshare-all" in line
    assert line[line.index("--remount-ro") + 1] == "/dev"


def test_threads_of_a_gpu_task_leave_half_of_what_the_user_may_have() -> None:
    """RLIMIT_NPROC counts the threads of all of the user's processes: else no program starts."""
    gpu = msgspec.structs.replace(POLICY, driver=DRIVER, threads=True)
    soft, hard = dict(limits.resource_limits(gpu, (0, 0)))[resource.RLIMIT_NPROC]
    allowed = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    assert 0 < soft == hard <= (1 << 15 if allowed == resource.RLIM_INFINITY else allowed) // 2
    assert resource.RLIMIT_NPROC not in dict(limits.resource_limits(POLICY, (0, 0)))
