"""Attacks on other processes, and on the task's own limits."""

from __future__ import annotations

import os
from pathlib import Path

from tests.attacks.conftest import NO_ERRNO, Attack
from tests.support.running import make_spec, script, with_pool

OWN_SIGNAL = (
    "got = []; signal.signal(signal.SIGUSR1, lambda *_: got.append(1));"
    " os.kill(os.getpid(), signal.SIGUSR1); assert got == [1]"
)

OWN_MEMORY = (
    "text = ctypes.create_string_buffer(b'own'); assert ctypes.string_at(text, 3) == b'own'"
)


def test_read_agents_memory(attack: Attack) -> None:
    attack.repelled("open(f'/proc/{AGENT}/mem', 'rb')", OWN_MEMORY)


def test_write_zygotes_memory(attack: Attack) -> None:
    attack.repelled("open(f'/proc/{os.getppid()}/mem', 'r+b')", "os.getppid()")


def test_ptrace_attach(attack: Attack) -> None:
    attack.repelled("syscall(101, 117, 16, AGENT, 0, 0)", "os.getpid()")


def test_ptrace_zygote(attack: Attack) -> None:
    attack.repelled("syscall(101, 117, 0x4206, os.getppid(), 0, 0)", "os.getpid()")


def test_process_vm_readv(attack: Attack) -> None:
    attack.repelled("syscall(310, 270, AGENT, None, 0, None, 0, 0)", OWN_MEMORY)


def test_process_vm_writev(attack: Attack) -> None:
    attack.repelled("syscall(311, 271, AGENT, None, 0, None, 0, 0)", OWN_MEMORY)


def test_pidfd_getfd(attack: Attack) -> None:
    attack.repelled(
        "fd = syscall(434, 434, AGENT, 0); syscall(438, 438, fd, 0, 0)", "os.close(os.dup(1))"
    )


def test_pidfd_signal(attack: Attack) -> None:
    attack.repelled("signal.pidfd_send_signal(os.pidfd_open(os.getppid()), 0)", OWN_SIGNAL)


def test_kcmp(attack: Attack) -> None:
    attack.repelled("syscall(312, 272, os.getpid(), AGENT, 0, 0, 0)", "os.getpid()")


def test_signal_agent(attack: Attack) -> None:
    attack.repelled("os.kill(AGENT, signal.SIGTERM)", OWN_SIGNAL)


def test_signal_zygote(attack: Attack) -> None:
    attack.repelled("os.kill(os.getppid(), signal.SIGKILL)", OWN_SIGNAL)


def test_signal_everyone(attack: Attack) -> None:
    attack.repelled("os.kill(-1, signal.SIGTERM)", OWN_SIGNAL)


def test_signal_group(attack: Attack) -> None:
    attack.repelled("os.killpg(os.getpgid(AGENT), 0)", OWN_SIGNAL)


def test_signal_thread_of_agent(attack: Attack) -> None:
    attack.repelled(
        "syscall(234, 131, AGENT, AGENT, 0)",
        OWN_SIGNAL.replace("os.kill(os.getpid(),", "signal.raise_signal("),
    )


def test_queue_signal(attack: Attack) -> None:
    attack.repelled(
        "info = ctypes.create_string_buffer(128); syscall(129, 138, AGENT, 10, info)", OWN_SIGNAL
    )


def test_signal_through_file_owner(attack: Attack) -> None:
    """F_SETOWN makes the kernel send SIGIO to the named process."""
    attack.repelled(
        "import fcntl; a, b = socket.socketpair(); fcntl.fcntl(a, 8, AGENT)",
        "import fcntl; a, b = socket.socketpair();"
        " fcntl.fcntl(a, fcntl.F_SETFL, fcntl.fcntl(a, fcntl.F_GETFL) | os.O_NONBLOCK)",
    )


def test_renice_another(attack: Attack) -> None:
    attack.repelled("os.setpriority(os.PRIO_PROCESS, AGENT, 19)", "os.getpriority(0, 0)")


def test_renice_itself_up(attack: Attack) -> None:
    attack.repelled("os.setpriority(os.PRIO_PROCESS, 0, -5)", "os.getpriority(0, 0)")


def test_limit_another(attack: Attack) -> None:
    attack.repelled(
        "import resource; resource.prlimit(AGENT, resource.RLIMIT_NOFILE, (0, 0))",
        "import resource; resource.getrlimit(resource.RLIMIT_NOFILE)",
    )


def test_raise_own_limits(attack: Attack) -> None:
    attack.repelled(
        "import resource\n"
        "try:\n    resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))\n"
        "except ValueError as error:\n    raise PermissionError(1, str(error))",
        "import resource; assert resource.getrlimit(resource.RLIMIT_CORE) == (0, 0)",
    )


def test_pin_another(attack: Attack) -> None:
    attack.repelled("os.sched_setaffinity(AGENT, {0})", "assert os.sched_getaffinity(0)")


def test_pin_itself(attack: Attack) -> None:
    attack.repelled("os.sched_setaffinity(0, {0})", "os.sched_yield()")


def test_set_scheduler_of_another(attack: Attack) -> None:
    attack.repelled(
        "os.sched_setscheduler(AGENT, os.SCHED_IDLE, os.sched_param(0))", "os.sched_getscheduler(0)"
    )


def test_leave_the_lowest_rank(tmp_path: Path) -> None:
    """As volunteers run it, a task has SCHED_IDLE, and cannot leave it."""
    body = """
    import os
    def refused(step, *arguments):
        try:
            step(*arguments)
        except PermissionError:
            return 1
        return 0
    value = [
        os.sched_getscheduler(0) == os.SCHED_IDLE or os.getpriority(0, 0) == 19,
        refused(os.sched_setscheduler, 0, os.SCHED_OTHER, os.sched_param(0)),
        refused(os.sched_setscheduler, 0, os.SCHED_FIFO, os.sched_param(1)),
        refused(os.sched_setparam, 0, os.sched_param(0)),
        refused(os.setpriority, os.PRIO_PROCESS, 0, 0),
    ]
    """
    spec = make_spec(tmp_path, script(body))
    finished = with_pool(lambda recorder: recorder.finish(spec), background=True)
    assert finished.outcome == "success", finished.message
    assert finished.result["value"] == [1.0] * 5


def test_raise_io_rank(attack: Attack) -> None:
    attack.repelled("syscall(251, 30, 1, 0, 1 << 13)", "syscall(252, 31, 1, 0)")


def test_fork_bomb(attack: Attack) -> None:
    attack.repelled(
        "for _ in range(1000):\n    if os.fork() == 0:\n        os._exit(0)",
        "os.getpid()",
    )


def test_vfork(attack: Attack) -> None:
    attack.repelled("syscall(58, 220, 0x4111, 0, 0, 0, 0)", "os.getpid()")


def test_spawn(attack: Attack) -> None:
    attack.repelled("import subprocess; subprocess.run(['/bin/true'])", "import subprocess")


def test_multiprocessing(attack: Attack) -> None:
    attack.repelled(
        "import multiprocessing; p = multiprocessing.Process(target=print); p.start()",
        "list(map(abs, [-1]))",
    )


def test_thread_bomb(attack: Attack) -> None:
    attack.repelled(
        "import threading, time\nfor _ in range(1000):\n"
        "    threading.Thread(target=time.sleep, args=(9,), daemon=True).start()",
        "import threading\nwith threading.RLock():\n    threading.current_thread()",
        refusals=(NO_ERRNO,),  # RuntimeError: can't start new thread
    )


def test_exec(attack: Attack) -> None:
    attack.repelled("os.execv('/bin/true', ['true'])", "exec('1 + 1')")


def test_exec_interpreter(attack: Attack) -> None:
    attack.repelled("os.execv(sys.executable, ['python', '-c', '1'])", "exec('1 + 1')")


def test_exec_memfd(attack: Attack) -> None:
    attack.repelled(
        "fd = os.memfd_create('x'); os.write(fd, b'#!/bin/sh\\n'); os.execve(fd, ['x'], {})",
        "import io; io.BytesIO(b'x').read()",
    )


def test_setuid(attack: Attack) -> None:
    attack.repelled("os.setuid(0)", "os.getuid(), os.geteuid(), os.getgroups()")


def test_become_nobody(attack: Attack) -> None:
    attack.repelled("os.setresuid(65534, 65534, 65534)", "os.getresuid()")


def test_regain_capabilities(attack: Attack) -> None:
    attack.repelled(
        "import struct; syscall(126, 91, struct.pack('=Ii', 0x20080522, 0), b'\\xff' * 24)",
        "import struct; data = ctypes.create_string_buffer(24)\n"
        "syscall(125, 90, struct.pack('=Ii', 0x20080522, 0), data); assert data.raw == bytes(24)",
    )


def test_leave_session(attack: Attack) -> None:
    attack.repelled("os.setpgid(0, 0)", f"assert os.getsid(0) != {os.getsid(0)}")


def test_outlive_parent(attack: Attack) -> None:
    """Clearing the parent-death signal would leave an orphan when the agent is killed."""
    attack.repelled("syscall(157, 167, 1, 0, 0, 0, 0)", "syscall(157, 167, 15, b'a-name', 0, 0, 0)")


def test_become_dumpable_again(attack: Attack) -> None:
    attack.repelled("syscall(157, 167, 4, 1, 0, 0, 0)", "os.getpid()")


def test_inherited_descriptors(attack: Attack) -> None:
    finished = attack.run(
        """
        def is_open(fd):
            try:
                os.fstat(fd)
            except OSError:
                return False
            return True
        value = [fd for fd in range(4096) if is_open(fd)]
        """
    )
    assert finished.result["value"] == [0, 1, 2, 3]
