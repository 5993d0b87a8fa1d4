"""What a task may do, as data. Every sandbox is derived from this one description.

``landlock.py`` takes the folders, ``seccomp.py`` the system calls, ``limits.py`` the figures,
``bubblewrap.py`` folders and network, ``macos.py`` writes a Seatbelt profile and ``windows.py`` the
attributes of a job object and an AppContainer from the same fields. Nothing is allowed that is not
named here.
"""

from __future__ import annotations

from typing import Final, Literal

from msgspec import Struct

DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")

SELF: Final = "self"  # as a condition's value: the process id of the confined process


class Condition(Struct, frozen=True):
    """Holds when ``(argument & mask) == value``; all 64 bits when there is no mask."""

    argument: int
    value: int | Literal["self"]
    mask: int = 0xFFFF_FFFF_FFFF_FFFF


class SyscallRule(Struct, frozen=True):
    """A call that is allowed when one of the alternatives holds in full, and else refused."""

    name: str
    alternatives: tuple[tuple[Condition, ...], ...]


class Limits(Struct, frozen=True, kw_only=True):
    """Figures that the kernel holds for the process itself; wall time and disk total are watched.

    memory_bytes    beyond what the interpreter and the libraries already take
    file_bytes      size of any one file
    cpu_seconds     user and system time together
    """

    memory_bytes: int
    file_bytes: int
    cpu_seconds: float
    open_files: int = 64  # channel, output and a few data files; bounds what pipes can hold
    queued_signals: int = 64  # timers and real-time signals; the user's queue is one for all


class DriverAccess(Struct, frozen=True, kw_only=True):
    """What the library of a GPU's driver needs beyond what every task may do.

    devices         device files that it reads, writes and sends requests (ioctl) to
    read_only       folders of the driver's own libraries
    ioctls          alternatives on ioctl's arguments; a request passes when one holds in full
    names_threads   it writes its threads' names below /proc/self/task, and fails where it cannot
    listens         it listens on an abstract Unix socket of type SEQPACKET, and fails where it
                    cannot; nobody is let in, since accept and connect stay refused
    memory_bytes    of the host's memory that the library takes for itself
    environment     variables that show the task its own GPUs and no other
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
    read_only    folders and files of the interpreter and its libraries
    devices      device files that may be read and written
    threads      more threads of its own; never more processes
    driver       it drives a GPU, and this is what that needs; no address-space limit
    background   it runs only when nothing else wants the core
    """

    folder: str
    read_only: tuple[str, ...]
    devices: tuple[str, ...] = DEVICES
    limits: Limits
    threads: bool = False
    driver: DriverAccess | None = None
    background: bool = True


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


#: Allowed whatever their arguments: they reach only the process itself, what it already holds
#: open, or paths, which Landlock decides on.
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

#: For the libraries of GPU drivers. A timer may send its process any signal, SIGKILL too, and takes
#: a place in the queue of signals that all of the user's processes share.
TIMERS = _names("timer_create timer_settime timer_gettime timer_delete timer_getoverrun")

#: Answered as if the kernel did not have them, so that libraries take their older way. fallocate
#: with FALLOC_FL_KEEP_SIZE takes disk beyond RLIMIT_FSIZE.
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
    """Without O_TRUNC, or with it for writing: Landlock before ABI 3 overlooks O_RDONLY|O_TRUNC."""
    writing = [Condition(flags_argument, mode, _O_ACCMODE) for mode in (1, 2)]
    return ((Condition(flags_argument, 0, _O_TRUNC),), *((condition,) for condition in writing))


def _any_of(argument: int, values: tuple[int, ...]) -> tuple[tuple[Condition, ...], ...]:
    return tuple((Condition(argument, value, 0xFFFF_FFFF),) for value in values)


def _signals_to_itself(signal_argument: int) -> tuple[tuple[Condition, ...], ...]:
    """Any signal but SIGKILL: a task that is killed was killed from outside, and is run again."""
    itself = Condition(0, SELF, 0xFFFF_FFFF)
    bits = (1 << bit for bit in range(7))  # a number that differs from 9 does so in one of these
    return tuple((itself, Condition(signal_argument, ~_SIGKILL & bit, bit)) for bit in bits)


CONDITIONAL: tuple[SyscallRule, ...] = (
    SyscallRule("open", _opens(1)),
    SyscallRule("openat", _opens(2)),
    SyscallRule("kill", _signals_to_itself(1)),
    SyscallRule("tgkill", _signals_to_itself(2)),
    SyscallRule("sendto", ((Condition(4, 0),),)),  # only along a connection, never to an address
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
    """The calls always allowed and those allowed on conditions, for this policy."""
    rules = CONDITIONAL + ((THREADS,) if policy.threads else ())
    if policy.driver is None:
        return ALLOWED, rules
    others = tuple(rule for rule in rules if rule.name != "ioctl")
    ioctl = SyscallRule("ioctl", (*_any_of(1, _IOCTL), *policy.driver.ioctls))
    sockets = ("bind", "listen") if policy.driver.listens else ()
    made = (_LISTENING_SOCKET,) if policy.driver.listens else ()
    return (*ALLOWED, *TIMERS, *sockets), (*others, ioctl, *made)
