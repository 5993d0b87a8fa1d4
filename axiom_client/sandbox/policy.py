"""What a task may do, as data. Every sandbox is derived from this one description.

``landlock.py`` uses the folders, ``seccomp.py`` the system calls, ``limits.py`` the resource limits
and ``bubblewrap.py`` the folders. ``macos.py`` derives a Seatbelt profile and ``windows.py`` the
attributes of a job object and an AppContainer. What is not named here is forbidden.
"""

from __future__ import annotations

from typing import Final, Literal

from msgspec import Struct

#: Memory of the interpreter and the libraries before an experiment is loaded: job objects, and the
#: agent's own checks where a system has no limit, count it, while a policy's limit is in addition.
RUNTIME_BYTES = 1_500_000_000

DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")

SELF: Final = "self"  # as a condition's value: the process id of the confined process


class Condition(Struct, frozen=True):
    """True when ``(argument & mask) == value``; the default mask compares all 64 bits."""

    argument: int
    value: int | Literal["self"]
    mask: int = 0xFFFF_FFFF_FFFF_FFFF


class SyscallRule(Struct, frozen=True):
    """A call that is allowed when all conditions of one alternative are true, and else refused."""

    name: str
    alternatives: tuple[tuple[Condition, ...], ...]


class Limits(Struct, frozen=True, kw_only=True):
    """Limits that the kernel enforces; the agent itself checks wall time and total disk use.

    memory_bytes    in addition to what the interpreter and the libraries take
    file_bytes      size of any one file
    cpu_seconds     user and system time together
    """

    memory_bytes: int
    file_bytes: int
    cpu_seconds: float
    open_files: int = 64  # channel, output and a few data files; also limits the memory in pipes
    queued_signals: int = 64  # the kernel counts them for all processes of the user together


class DriverAccess(Struct, frozen=True, kw_only=True):
    """What the library of a GPU's driver needs beyond what every task may do.

    devices         device files that it reads, writes and sends requests (ioctl) to
    read_only       folders of the driver's own libraries
    ioctls          alternatives on ioctl's arguments; one must be true for a request to pass
    names_threads   it must write its threads' names below /proc/self/task
    listens         it must listen on an abstract Unix socket of type SEQPACKET; no connection is
                    possible, because accept and connect stay refused
    memory_bytes    host memory that the library takes for itself
    environment     variables that make only the task's own GPUs visible
    """

    devices: tuple[str, ...] = ()
    read_only: tuple[str, ...] = ()
    ioctls: tuple[tuple[Condition, ...], ...] = ()
    names_threads: bool = False
    listens: bool = False
    memory_bytes: int = 0
    environment: dict[str, str] = {}


class Policy(Struct, frozen=True, kw_only=True):
    """What one task may do.

    folder       its own folder: read, write, create, delete, rename; no links, no devices
    folders      the same for the further tasks of a cohort
    read_only    folders and files of the interpreter and its libraries
    devices      device files that may be read and written
    threads      it may start threads; never processes
    driver       access to a GPU driver, for a GPU task; it then has no address-space limit
    background   it runs only when no other program wants the core
    cores        it runs on these cores alone, where the system allows it; empty: on any
    """

    folder: str
    folders: tuple[str, ...] = ()
    read_only: tuple[str, ...]
    devices: tuple[str, ...] = DEVICES
    limits: Limits
    threads: bool = False
    driver: DriverAccess | None = None
    background: bool = True
    cores: tuple[int, ...] = ()


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


#: Allowed with any arguments: they affect only the process itself and files that it has open, or
#: take paths, which Landlock checks.
ALLOWED = _names(
    """
    read write pread64 pwrite64 readv writev preadv pwritev preadv2 pwritev2 lseek close close_range
    dup dup2 dup3 stat lstat fstat newfstatat statx access faccessat faccessat2
    readlink readlinkat getdents getdents64 getcwd chdir fchdir mkdir mkdirat rmdir unlink unlinkat
    rename renameat renameat2 ftruncate fadvise64 fsync fdatasync statfs fstatfs flock
    umask sendfile copy_file_range
    mmap munmap mprotect mremap brk madvise mincore msync membarrier get_mempolicy getcpu
    pipe pipe2 poll ppoll select pselect6 epoll_create epoll_create1 epoll_ctl epoll_wait
    epoll_pwait epoll_pwait2 eventfd2
    getpid getppid gettid getuid geteuid getgid getegid getresuid getresgid getgroups getpgrp
    getpgid getsid capget times getrusage getrlimit uname sysinfo getrandom
    clock_gettime clock_getres gettimeofday time nanosleep clock_nanosleep getitimer setitimer alarm
    sched_yield sched_getaffinity sched_getscheduler sched_getparam sched_getattr
    sched_get_priority_max sched_get_priority_min getpriority ioprio_get
    rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending rt_sigsuspend rt_sigtimedwait sigaltstack
    pause restart_syscall futex futex_waitv set_robust_list get_robust_list rseq set_tid_address
    exit exit_group wait4 waitid
    getsockopt getsockname getpeername shutdown recvfrom recvmsg
    """
)

#: Allowed for GPU tasks only, whose drivers may use them. A timer can send its process any signal,
#: including SIGKILL, and uses up the signal queue that all processes of the user share.
TIMERS = _names("timer_create timer_settime timer_gettime timer_delete timer_getoverrun")

#: Answered with ENOSYS, so that libraries use their fallback. fallocate with FALLOC_FL_KEEP_SIZE
#: allocates disk space beyond RLIMIT_FSIZE.
ABSENT: tuple[str, ...] = ("clone3", "openat2", "io_uring_setup", "memfd_secret", "fallocate")

_SIGKILL = 9
_O_ACCMODE, _O_TRUNC = 0o3, 0o1000
_AF_UNIX, _SOCK_STREAM, _SOCK_SEQPACKET, _SOCK_TYPE = 1, 1, 5, 0xF
_FCNTL = (0, 1, 2, 3, 4, 5, 6, 7, 1030, 36, 37, 38)  # dup, flags, locks; not F_SETOWN (signals)
_IOCTL = (
    0x5401,
    0x5413,
    0x541B,
    0x5421,
    0x5450,
    0x5451,
)  # isatty, size, blocking, cloexec
_PRCTL = (15, 16, 0x53564D41)  # PR_SET_NAME, PR_GET_NAME, PR_SET_VMA; not PDEATHSIG, not MM


def _opens(flags_argument: int) -> tuple[tuple[Condition, ...], ...]:
    """O_TRUNC only when writing: Landlock before ABI 3 does not check O_RDONLY|O_TRUNC."""
    writing = [Condition(flags_argument, mode, _O_ACCMODE) for mode in (1, 2)]
    return ((Condition(flags_argument, 0, _O_TRUNC),), *((condition,) for condition in writing))


def _any_of(argument: int, values: tuple[int, ...]) -> tuple[tuple[Condition, ...], ...]:
    return tuple((Condition(argument, value, 0xFFFF_FFFF),) for value in values)


def _signals_to_itself(signal_argument: int) -> tuple[tuple[Condition, ...], ...]:
    """Any signal but SIGKILL: a killed task counts as killed from outside, and is run again."""
    itself = Condition(0, SELF, 0xFFFF_FFFF)
    bits = (1 << bit for bit in range(7))  # a number that differs from 9 does so in one of these
    return tuple((itself, Condition(signal_argument, ~_SIGKILL & bit, bit)) for bit in bits)


CONDITIONAL: tuple[SyscallRule, ...] = (
    SyscallRule("open", _opens(1)),
    SyscallRule("openat", _opens(2)),
    SyscallRule("kill", _signals_to_itself(1)),
    SyscallRule("tgkill", _signals_to_itself(2)),
    SyscallRule("sendto", ((Condition(4, 0),),)),  # only on a connected socket, never to an address
    SyscallRule(
        "socketpair",
        ((Condition(0, _AF_UNIX, 0xFFFF_FFFF), Condition(1, _SOCK_STREAM, _SOCK_TYPE)),),
    ),
    SyscallRule("prlimit64", ((Condition(0, 0, 0xFFFF_FFFF), Condition(2, 0)),)),  # read own limits
    SyscallRule("fcntl", _any_of(1, _FCNTL)),
    SyscallRule("ioctl", _any_of(1, _IOCTL)),
    SyscallRule("prctl", _any_of(0, _PRCTL)),
)

_LISTENING_SOCKET = SyscallRule(
    "socket", ((Condition(0, _AF_UNIX, 0xFFFF_FFFF), Condition(1, _SOCK_SEQPACKET, _SOCK_TYPE)),)
)

_CLONE_THREAD = 0x0001_0000
_CLONE_NAMESPACES = 0x7E02_0000 | 0x0000_0080  # NEWNS, CGROUP, UTS, IPC, USER, PID, NET; NEWTIME
THREADS = SyscallRule("clone", ((Condition(0, _CLONE_THREAD, _CLONE_THREAD | _CLONE_NAMESPACES),),))


def syscall_rules(policy: Policy) -> tuple[tuple[str, ...], tuple[SyscallRule, ...]]:
    """The calls that this policy always allows, and the rules for those allowed conditionally."""
    rules = CONDITIONAL + ((THREADS,) if policy.threads else ())
    if policy.driver is None:
        return ALLOWED, rules
    others = tuple(rule for rule in rules if rule.name != "ioctl")
    ioctl = SyscallRule("ioctl", (*_any_of(1, _IOCTL), *policy.driver.ioctls))
    sockets = ("bind", "listen") if policy.driver.listens else ()
    made = (_LISTENING_SOCKET,) if policy.driver.listens else ()
    return (*ALLOWED, *TIMERS, *sockets), (*others, ioctl, *made)
