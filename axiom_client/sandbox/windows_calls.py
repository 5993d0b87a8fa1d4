"""The calls to Windows that start, confine, measure and end a task's process.

Each function makes one call, or one that needs another, and raises OSError with what was being done
when Windows refuses. Handles and pointers are plain integers. Source: Microsoft's reference of
jobapi2.h, processthreadsapi.h, synchapi.h, handleapi.h, fileapi.h, namedpipeapi.h,
securitybaseapi.h, userenv.h, sddl.h.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Sequence
from ctypes import wintypes
from typing import Any

from msgspec import Struct

from axiom_client.sandbox.windows import EXTENDED_LIMITS, JobAttributes
from axiom_client.system.libraries import windows_error, windows_library

# Of fixed sizes, so that the structures have their layout on every system that tests run on.
_HANDLE, _POINTER, _DWORD, _BOOL = (
    wintypes.HANDLE,
    ctypes.c_void_p,
    ctypes.c_uint32,
    ctypes.c_int32,
)
_SIZE = ctypes.c_size_t
_ACCOUNTING = 1  # JobObjectBasicAccountingInformation
_TICKS_PER_SECOND = 10_000_000  # 100 ns
_HANDLE_FLAG_INHERIT = 1
_DUPLICATE_SAME_ACCESS = 2
PIPE_BYTES = 16_384
THIS_PROCESS = -1  # GetCurrentProcess()
_TOKEN_QUERY, _TOKEN_IS_APP_CONTAINER = 0x0008, 29
_ENDED, _RUNNING = 0, 0x102  # WAIT_OBJECT_0, WAIT_TIMEOUT
_GROUP_ENABLED = 4  # SE_GROUP_ENABLED

# Flags of CreateProcess
_CREATE_SUSPENDED, _UNICODE_ENVIRONMENT = 0x0000_0004, 0x0000_0400
_EXTENDED_STARTUPINFO, _NO_WINDOW = 0x0008_0000, 0x0800_0000
_USE_STD_HANDLES = 0x0000_0100  # STARTF_USESTDHANDLES
# PROC_THREAD_ATTRIBUTE_*
_HANDLE_LIST, _SECURITY_CAPABILITIES, _CHILD_PROCESS_POLICY = 0x2_0002, 0x2_0009, 0x2_000E
_NO_CHILD_PROCESSES = 1  # PROCESS_CREATION_CHILD_PROCESS_RESTRICTED


class JobUsage(Struct, frozen=True, kw_only=True):
    """What all processes of a job have used."""

    user_seconds: float = 0.0
    system_seconds: float = 0.0
    peak_memory_bytes: int = 0


class Created(Struct, frozen=True, kw_only=True):
    """A new process, whose first thread waits for ``resume``."""

    process: int
    thread: int
    pid: int


def _function(library: str, name: str, result: Any, *arguments: Any) -> Callable[..., Any]:
    function: Any = getattr(windows_library(library), name)
    function.restype, function.argtypes = result, list(arguments)
    called: Callable[..., Any] = function
    return called


# ---- jobs


def create_job() -> int:
    """A job object's handle."""
    call = _function("kernel32", "CreateJobObjectW", _HANDLE, _POINTER, wintypes.LPCWSTR)
    if not (handle := call(None, None)):
        raise windows_error("create a job object")
    return int(handle)


def limit_job(job: int, attributes: JobAttributes) -> None:
    """Set the limits, before a process is in the job."""
    for kind, data in attributes.settings():
        _limit(job, kind, data)


def _limit(job: int, kind: int, data: bytes) -> None:
    call = _function(
        "kernel32", "SetInformationJobObject", _BOOL, _HANDLE, ctypes.c_int, _POINTER, _DWORD
    )
    if not call(job, kind, data, len(data)):
        raise windows_error(f"limit a job object (class {kind})")


def change_limits(job: int, attributes: JobAttributes) -> None:
    """Change the limits of use of a job whose process runs already, and no other of its limits."""
    _limit(job, EXTENDED_LIMITS, attributes.packed())


def assign(job: int, process: int) -> None:
    """Put a process into the job."""
    call = _function("kernel32", "AssignProcessToJobObject", _BOOL, _HANDLE, _HANDLE)
    if not call(job, process):
        raise windows_error("put a process into a job object")


def terminate_job(job: int, code: int) -> None:
    """End all processes of the job with this exit code."""
    call = _function("kernel32", "TerminateJobObject", _BOOL, _HANDLE, wintypes.UINT)
    if not call(job, code):
        raise windows_error("end the processes of a job object")


def job_usage(job: int) -> JobUsage:
    """What the job's processes have used, those that have ended included."""
    user, system = struct.unpack_from("<qq", _query_job(job, _ACCOUNTING, 48))
    peak = struct.unpack_from("<Q", _query_job(job, EXTENDED_LIMITS, 144), 128)[0]
    return JobUsage(
        user_seconds=user / _TICKS_PER_SECOND,
        system_seconds=system / _TICKS_PER_SECOND,
        peak_memory_bytes=peak,
    )


def _query_job(job: int, kind: int, size: int) -> bytes:
    call = _function(
        "kernel32", "QueryInformationJobObject", _BOOL, _HANDLE, ctypes.c_int, _POINTER, _DWORD,
        _POINTER,
    )  # fmt: skip
    data = ctypes.create_string_buffer(size)
    if not call(job, kind, data, size, None):
        raise windows_error(f"read a job object (class {kind})")
    return data.raw


# ---- processes


class _StartupInfo(ctypes.Structure):
    """STARTUPINFOEXW."""

    _fields_ = (
        ("cb", _DWORD), ("lpReserved", wintypes.LPWSTR), ("lpDesktop", wintypes.LPWSTR),
        ("lpTitle", wintypes.LPWSTR), ("dwX", _DWORD), ("dwY", _DWORD), ("dwXSize", _DWORD),
        ("dwYSize", _DWORD), ("dwXCountChars", _DWORD), ("dwYCountChars", _DWORD),
        ("dwFillAttribute", _DWORD), ("dwFlags", _DWORD), ("wShowWindow", wintypes.WORD),
        ("cbReserved2", wintypes.WORD), ("lpReserved2", _POINTER), ("hStdInput", _HANDLE),
        ("hStdOutput", _HANDLE), ("hStdError", _HANDLE), ("lpAttributeList", _POINTER),
    )  # fmt: skip


class _ProcessInformation(ctypes.Structure):
    """PROCESS_INFORMATION."""

    _fields_ = (
        ("hProcess", _HANDLE), ("hThread", _HANDLE), ("dwProcessId", _DWORD),
        ("dwThreadId", _DWORD),
    )  # fmt: skip


class _SidAndAttributes(ctypes.Structure):
    """SID_AND_ATTRIBUTES."""

    _fields_ = (("Sid", _POINTER), ("Attributes", _DWORD))


class _SecurityCapabilities(ctypes.Structure):
    """SECURITY_CAPABILITIES."""

    _fields_ = (
        ("AppContainerSid", _POINTER), ("Capabilities", ctypes.POINTER(_SidAndAttributes)),
        ("CapabilityCount", _DWORD), ("Reserved", _DWORD),
    )  # fmt: skip


def create_suspended(
    command_line: str,
    environment: str,
    folder: str,
    handles: tuple[int, int, int],
    container: tuple[int, Sequence[int]] | None,
) -> Created:
    """A process with these standard handles and no other, which waits for ``resume``.

    environment   "NAME=VALUE" texts, each ended by NUL, and another NUL
    container     the SIDs of its AppContainer and of its capabilities; it then starts no process
    """
    listed = list(dict.fromkeys(handles))
    values: list[tuple[int, Any]] = [(_HANDLE_LIST, (_HANDLE * len(listed))(*listed))]
    if container is not None:
        values.append((_SECURITY_CAPABILITIES, _capabilities(*container)))
        values.append((_CHILD_PROCESS_POLICY, _DWORD(_NO_CHILD_PROCESSES)))
    attributes = _attribute_list(values)
    startup = _StartupInfo(cb=ctypes.sizeof(_StartupInfo), dwFlags=_USE_STD_HANDLES)
    startup.hStdInput, startup.hStdOutput, startup.hStdError = handles
    startup.lpAttributeList = ctypes.addressof(attributes)
    made = _ProcessInformation()
    call = _function(
        "kernel32", "CreateProcessW", _BOOL, wintypes.LPCWSTR, wintypes.LPWSTR, _POINTER, _POINTER,
        _BOOL, _DWORD, _POINTER, wintypes.LPCWSTR, _POINTER, _POINTER,
    )  # fmt: skip
    flags = _CREATE_SUSPENDED | _UNICODE_ENVIRONMENT | _EXTENDED_STARTUPINFO | _NO_WINDOW
    # CreateProcessW may write to the command line; the environment holds NULs.
    line, block = ctypes.create_unicode_buffer(command_line), _wide(environment)
    try:
        started = call(
            None, line, None, None, True, flags, block, folder, ctypes.byref(startup),
            ctypes.byref(made),
        )  # fmt: skip
        if not started:
            raise windows_error("start a task's process")
    finally:
        _function("kernel32", "DeleteProcThreadAttributeList", None, _POINTER)(attributes)
    return Created(process=made.hProcess, thread=made.hThread, pid=made.dwProcessId)


def _wide(text: str) -> ctypes.Array[ctypes.c_char]:
    return ctypes.create_string_buffer(text.encode("utf-16-le", "surrogatepass"))


def _capabilities(container: int, granted: Sequence[int]) -> _SecurityCapabilities:
    listed = (_SidAndAttributes * len(granted))(
        *(_SidAndAttributes(sid, _GROUP_ENABLED) for sid in granted)
    )
    return _SecurityCapabilities(container, listed, len(granted), 0)


def _attribute_list(values: list[tuple[int, Any]]) -> ctypes.Array[ctypes.c_char]:
    """PROC_THREAD_ATTRIBUTE_LIST. It points to ``values``, which must outlive it."""
    create = _function(
        "kernel32", "InitializeProcThreadAttributeList", _BOOL, _POINTER, _DWORD, _DWORD, _POINTER
    )
    size = _SIZE(0)
    create(None, len(values), 0, ctypes.byref(size))  # always fails; says how large the list is
    attributes = ctypes.create_string_buffer(max(size.value, 1))
    if not create(attributes, len(values), 0, ctypes.byref(size)):
        raise windows_error("prepare the attributes of a process")
    update = _function(
        "kernel32", "UpdateProcThreadAttribute", _BOOL, _POINTER, _DWORD, _SIZE, _POINTER, _SIZE,
        _POINTER, _POINTER,
    )  # fmt: skip
    for kind, value in values:
        if not update(attributes, 0, kind, ctypes.byref(value), ctypes.sizeof(value), None, None):
            raise windows_error(f"set the attribute {kind:#x} of a process")
    return attributes


def set_inheritable(handle: int, inheritable: bool) -> None:
    """Whether processes that name this handle in their list get it."""
    call = _function("kernel32", "SetHandleInformation", _BOOL, _HANDLE, _DWORD, _DWORD)
    if not call(handle, _HANDLE_FLAG_INHERIT, _HANDLE_FLAG_INHERIT if inheritable else 0):
        raise windows_error("pass on a handle")


def duplicate(handle: int, process: int) -> int:
    """The handle under which ``process`` has the same object, from now on and with equal rights."""
    made = _HANDLE(0)
    call = _function(
        "kernel32", "DuplicateHandle", _BOOL, _HANDLE, _HANDLE, _HANDLE, _POINTER, _DWORD, _BOOL,
        _DWORD,
    )  # fmt: skip
    if not call(
        THIS_PROCESS, handle, process, ctypes.byref(made), 0, False, _DUPLICATE_SAME_ACCESS
    ):
        raise windows_error("give a handle to a process")
    return int(made.value or 0)


def resume(thread: int) -> None:
    """Let the first thread of a new process run."""
    call = _function("kernel32", "ResumeThread", _DWORD, _HANDLE)
    if call(thread) == 0xFFFF_FFFF:
        raise windows_error("start a task's thread")


def terminate(process: int, code: int) -> None:
    """End a process."""
    call = _function("kernel32", "TerminateProcess", _BOOL, _HANDLE, wintypes.UINT)
    if not call(process, code):
        raise windows_error("end a process")


def exit_code(process: int, wait_ms: int = 0) -> int | None:
    """The exit code of a process that has ended; None while it runs."""
    wait = _function("kernel32", "WaitForSingleObject", _DWORD, _HANDLE, _DWORD)
    if (answer := wait(process, wait_ms)) == _RUNNING:
        return None
    code = _DWORD(0)
    read = _function("kernel32", "GetExitCodeProcess", _BOOL, _HANDLE, _POINTER)
    if answer != _ENDED or not read(process, ctypes.byref(code)):
        raise windows_error("learn how a process ended")
    return int(code.value)


def close_handle(handle: int) -> None:
    """Close a handle."""
    if not _function("kernel32", "CloseHandle", _BOOL, _HANDLE)(handle):
        raise windows_error("close a handle")


def processor_groups() -> list[int]:
    """The number of active cores in each group of at most 64."""
    count = _function("kernel32", "GetActiveProcessorGroupCount", ctypes.c_uint16)()
    cores = _function("kernel32", "GetActiveProcessorCount", _DWORD, ctypes.c_uint16)
    found = [int(cores(group)) for group in range(count)]
    if not found or not all(found):
        raise windows_error("count the processors of each group")
    return found


# ---- this process


def in_container() -> bool:
    """Whether this process runs in an AppContainer."""
    token = _HANDLE(0)
    opened = _function("advapi32", "OpenProcessToken", _BOOL, _HANDLE, _DWORD, _POINTER)
    if not opened(THIS_PROCESS, _TOKEN_QUERY, ctypes.byref(token)):
        raise windows_error("open the token of this process")
    inside, size = _DWORD(0), _DWORD(0)
    call = _function(
        "advapi32", "GetTokenInformation", _BOOL, _HANDLE, ctypes.c_int, _POINTER, _DWORD, _POINTER
    )
    known = call(token, _TOKEN_IS_APP_CONTAINER, ctypes.byref(inside), 4, ctypes.byref(size))
    problem = None if known else windows_error("read the token of this process")
    close_handle(int(token.value or 0))
    if problem is not None:
        raise problem
    return bool(inside.value)


def in_job() -> bool:
    """Whether this process is in a job object."""
    inside = _BOOL(False)
    call = _function("kernel32", "IsProcessInJob", _BOOL, _HANDLE, _HANDLE, _POINTER)
    if not call(THIS_PROCESS, None, ctypes.byref(inside)):
        raise windows_error("ask for the job object of this process")
    return bool(inside.value)


def bytes_waiting(pipe: int) -> int | None:
    """How many bytes could be read from a pipe; None when its other end is closed."""
    waiting = _DWORD(0)
    call = _function(
        "kernel32", "PeekNamedPipe", _BOOL, _HANDLE, _POINTER, _DWORD, _POINTER, _POINTER, _POINTER
    )
    if not call(pipe, None, 0, None, ctypes.byref(waiting), None):
        return None
    return int(waiting.value)


def create_pipe() -> tuple[int, int]:
    """The reading and the writing handle of an anonymous pipe of at least 4 KiB."""
    reading, writing = _HANDLE(0), _HANDLE(0)
    call = _function("kernel32", "CreatePipe", _BOOL, _POINTER, _POINTER, _POINTER, _DWORD)
    if not call(ctypes.byref(reading), ctypes.byref(writing), None, PIPE_BYTES):
        raise windows_error("make a pipe")
    return int(reading.value or 0), int(writing.value or 0)


def write_pipe(pipe: int, data: bytes) -> None:
    """Write all of ``data``, which must fit into the pipe: otherwise this waits."""
    written = _DWORD(0)
    call = _function("kernel32", "WriteFile", _BOOL, _HANDLE, _POINTER, _DWORD, _POINTER, _POINTER)
    if not call(pipe, data, len(data), ctypes.byref(written), None):
        raise windows_error("write to a process")


def read_pipe(pipe: int, size: int) -> bytes:
    """Read ``size`` bytes, which ``bytes_waiting`` has found."""
    data, done = ctypes.create_string_buffer(size), _DWORD(0)
    call = _function("kernel32", "ReadFile", _BOOL, _HANDLE, _POINTER, _DWORD, _POINTER, _POINTER)
    if not call(pipe, data, size, ctypes.byref(done), None):
        raise windows_error("read from a process")
    return data.raw[: done.value]


# ---- containers


def container_sid(name: str) -> int:
    """The SID of the AppContainer of this name, which needs no registration. See ``free_sid``."""
    sid = _POINTER(None)
    call = _function(
        "userenv", "DeriveAppContainerSidFromAppContainerName", ctypes.c_int32, wintypes.LPCWSTR,
        _POINTER,
    )  # fmt: skip
    if (result := call(name, ctypes.byref(sid))) != 0:
        raise windows_error(f"derive the SID of the AppContainer {name}", result & 0xFFFF_FFFF)
    return int(sid.value or 0)


def capability_sid(name: str) -> int:
    """The SID of the capability of this name. It stays allocated: there is one for each agent."""
    groups, group_count = _POINTER(None), _DWORD(0)
    sids, count = ctypes.POINTER(_POINTER)(), _DWORD(0)
    call = _function(
        "kernelbase", "DeriveCapabilitySidsFromName", _BOOL, wintypes.LPCWSTR, _POINTER, _POINTER,
        _POINTER, _POINTER,
    )  # fmt: skip
    derived = call(
        name, ctypes.byref(groups), ctypes.byref(group_count), ctypes.byref(sids),
        ctypes.byref(count),
    )  # fmt: skip
    if not derived or count.value < 1:
        raise windows_error(f"derive the SID of the capability {name}")
    return int(sids[0] or 0)


def sid_text(sid: int) -> str:
    """A SID in the form S-1-15-2-..."""
    text = wintypes.LPWSTR()
    call = _function("advapi32", "ConvertSidToStringSidW", _BOOL, _POINTER, _POINTER)
    if not call(sid, ctypes.byref(text)):
        raise windows_error("write a SID as text")
    found = text.value or ""
    _function("kernel32", "LocalFree", _POINTER, _POINTER)(text)
    return found


def free_sid(sid: int) -> None:
    """Free a SID of ``container_sid``."""
    _function("advapi32", "FreeSid", _POINTER, _POINTER)(sid)
