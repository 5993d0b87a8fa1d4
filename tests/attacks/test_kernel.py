"""Attacks on other kernel interfaces: namespaces, mounts, BPF, io_uring, old instruction sets."""

from __future__ import annotations

import errno
import platform
import signal

import pytest

from tests.attacks.conftest import Attack

STILL_RUNS = "os.getpid(); os.stat('.')"
NOT_THERE = (errno.ENOSYS, errno.EPERM)


def test_io_uring(attack: Attack) -> None:
    attack.repelled(
        "syscall(425, 425, 8, bytes(120))", "open('f', 'w').write('x')", refusals=NOT_THERE
    )


def test_userfaultfd(attack: Attack) -> None:
    attack.repelled("syscall(323, 282, 1)", "import mmap; mmap.mmap(-1, 4096)[0]")


def test_bpf(attack: Attack) -> None:
    attack.repelled("syscall(321, 280, 0, bytes(64), 64)", STILL_RUNS)


def test_add_key(attack: Attack) -> None:
    attack.repelled("syscall(248, 217, b'user', b'axiom', b'x', 1, -3)", STILL_RUNS)


def test_keyctl(attack: Attack) -> None:
    attack.repelled("syscall(250, 219, 0, -3, 1)", STILL_RUNS)


def test_perf(attack: Attack) -> None:
    attack.repelled(
        "syscall(298, 241, bytes(128), 0, -1, -1, 0)", "import time; time.perf_counter()"
    )


def test_unshare_user_namespace(attack: Attack) -> None:
    attack.repelled("syscall(272, 97, 0x10000000)", STILL_RUNS)


def test_unshare_network(attack: Attack) -> None:
    attack.repelled("syscall(272, 97, 0x40000000)", STILL_RUNS)


def test_enter_namespace_of_agent(attack: Attack) -> None:
    attack.repelled("syscall(308, 268, 0, 0)", STILL_RUNS)


def test_clone3(attack: Attack) -> None:
    attack.repelled("syscall(435, 435, bytes(88), 88)", STILL_RUNS, refusals=NOT_THERE)


def test_clone_into_user_namespace(attack: Attack) -> None:
    attack.repelled("syscall(56, 220, 0x10000000 | 17, 0, 0, 0, 0)", STILL_RUNS)


def test_mount(attack: Attack) -> None:
    attack.repelled("syscall(165, 40, b'none', b'.', b'tmpfs', 0, None)", STILL_RUNS)


def test_new_mount_api(attack: Attack) -> None:
    attack.repelled("syscall(430, 430, b'tmpfs', 0)", STILL_RUNS)


def test_unmount(attack: Attack) -> None:
    attack.repelled("syscall(166, 39, b'/proc', 2)", STILL_RUNS)


def test_pivot_root(attack: Attack) -> None:
    attack.repelled("syscall(155, 41, b'.', b'.')", STILL_RUNS)


def test_sysv_shared_memory(attack: Attack) -> None:
    attack.repelled(
        "syscall(29, 194, 0, 4096, 0o1600)",
        "import mmap; mmap.mmap(-1, 4096).write(b'x')",
    )


def test_sysv_messages(attack: Attack) -> None:
    attack.repelled("syscall(68, 186, 0, 0o1600)", "r, w = os.pipe(); os.write(w, b'x')")


def test_sysv_semaphores(attack: Attack) -> None:
    attack.repelled(
        "syscall(64, 190, 0, 1, 0o1600)", "import threading; threading.Semaphore().acquire()"
    )


def test_posix_message_queue(attack: Attack) -> None:
    attack.repelled("syscall(240, 180, b'axiom', 0o102, 0o600, None)", STILL_RUNS)


def test_posix_shared_memory(attack: Attack) -> None:
    attack.repelled(
        "from multiprocessing import shared_memory\n"
        "shared_memory.SharedMemory('axiom-planted', create=True, size=64)",
        "import mmap; mmap.mmap(-1, 4096)",
    )


def test_memfd_secret(attack: Attack) -> None:
    attack.repelled("syscall(447, 447, 0)", STILL_RUNS, refusals=NOT_THERE)


def test_asynchronous_io(attack: Attack) -> None:
    attack.repelled(
        "syscall(206, 0, 1, ctypes.byref(ctypes.c_ulong(0)))", "open('f', 'w').write('x')"
    )


def test_watch_files_by_inotify(attack: Attack) -> None:
    attack.repelled("syscall(294, 26, 0)", "os.stat('.').st_mtime")


def test_watch_files_by_fanotify(attack: Attack) -> None:
    attack.repelled("syscall(300, 262, 0, 0)", STILL_RUNS)


def test_personality(attack: Attack) -> None:
    attack.repelled("syscall(135, 92, 0x0040000)", "os.uname()")


@pytest.mark.skipif(platform.machine() != "x86_64", reason="an x86 call")
def test_local_descriptor_table(attack: Attack) -> None:
    attack.repelled("syscall(154, 0, 1, bytes(16), 16)", STILL_RUNS)


def test_load_module(attack: Attack) -> None:
    attack.repelled("syscall(313, 273, 0, b'', 0)", "import json")


def test_reboot(attack: Attack) -> None:
    attack.repelled("syscall(169, 142, 0xfee1dead, 672274793, 0, None)", STILL_RUNS)


def test_set_clock(attack: Attack) -> None:
    attack.repelled("import time; time.clock_settime(0, time.time())", "import time; time.time()")


def test_set_host_name(attack: Attack) -> None:
    attack.repelled("socket.sethostname('axiom')", "os.uname().nodename")


def test_read_kernel_log(attack: Attack) -> None:
    attack.repelled("syscall(103, 116, 3, ctypes.create_string_buffer(64), 64)", STILL_RUNS)


def test_swap_and_quota(attack: Attack) -> None:
    attack.repelled("syscall(168, 225, b'own')", STILL_RUNS)


def test_lock_memory(attack: Attack) -> None:
    attack.repelled("syscall(151, 230, 1)", "import mmap; mmap.mmap(-1, 4096)")


def test_flush_every_disk(attack: Attack) -> None:
    attack.repelled(
        "fd = os.open('.', 0); syscall(306, 267, fd)",
        "f = open('f', 'wb'); f.write(b'x'); f.flush(); os.fsync(f.fileno())",
    )


def test_change_file_flags(attack: Attack) -> None:
    """FS_IOC_SETFLAGS could make the volunteer's files immutable."""
    attack.repelled(
        "import fcntl; f = open('own', 'w'); fcntl.ioctl(f, 0x40086602, bytes(8))",
        "open('own', 'w').isatty()",
    )


def test_type_into_terminal(attack: Attack) -> None:
    attack.repelled(
        "import fcntl; fcntl.ioctl(0, 0x5412, b'x')", "import sys; assert not sys.stdin.isatty()"
    )


def test_replace_seccomp(attack: Attack) -> None:
    attack.repelled("syscall(317, 277, 1, 0, bytes(16))", STILL_RUNS)


def test_widen_landlock(attack: Attack) -> None:
    attack.repelled("syscall(444, 444, (8).to_bytes(8, 'little'), 8, 0)", STILL_RUNS)


MACHINE_CODE = """
import mmap
def run_code(code):
    page = mmap.mmap(-1, 4096, prot=7)
    page.write(code)
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    return ctypes.CFUNCTYPE(ctypes.c_long)(address)()
"""
GETPID_64 = "b'\\xb8\\x27\\x00\\x00\\x00\\x0f\\x05\\xc3'"  # mov eax, 39; syscall; ret
GETPID_32 = "b'\\xb8\\x14\\x00\\x00\\x00\\xcd\\x80\\xc3'"  # mov eax, 20; int 0x80; ret
GETPID_X32 = "b'\\xb8\\x27\\x00\\x00\\x40\\x0f\\x05\\xc3'"  # mov eax, 39|x32; syscall; ret


@pytest.mark.skipif(platform.machine() != "x86_64", reason="x86 has the old instruction sets")
@pytest.mark.parametrize("code", [GETPID_32, GETPID_X32], ids=["32-bit", "x32"])
def test_other_instruction_set(attack: Attack, code: str) -> None:
    """Numbers mean other calls there, so the first such call ends the process."""
    twin = attack.run(MACHINE_CODE + f"value = [run_code({GETPID_64}) == os.getpid()]")
    assert twin.result["value"] == [1.0]
    finished = attack.run(MACHINE_CODE + f"run_code({code})")
    assert finished.outcome == "failed"
    assert signal.SIGSYS.name in finished.message
