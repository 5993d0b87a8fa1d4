"""The calls to Windows with recorded answers: what is asked of it, and what follows a refusal.

The answers are those of Microsoft's reference: 0 (or NULL) for a failure of a BOOL or HANDLE
function, with GetLastError; an HRESULT other than 0; WAIT_TIMEOUT 258, WAIT_FAILED 0xFFFFFFFF.
"""

from __future__ import annotations

import ctypes
import struct
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from axiom_client.run import windows_task_process
from axiom_client.run.judge import SIGKILL, SIGXCPU
from axiom_client.run.windows_ends import wait_status
from axiom_client.sandbox import windows_calls as calls
from axiom_client.sandbox import windows_container, windows_process
from axiom_client.sandbox.errors import SandboxError
from axiom_client.sandbox.policy import Limits, Policy
from axiom_client.sandbox.windows import container_attributes, group_of, job_attributes
from axiom_client.sandbox.windows_process import ENDED_BY_AGENT, ConfinedProcess
from tests.support.recorded_library import RecordedLibrary, fill, install

POLICY = Policy(
    folder="C:\\axiom\\tasks\\7",
    read_only=("C:\\Users\\Zoë\\Python",),
    limits=Limits(memory_bytes=1_000_000, file_bytes=5_000, cpu_seconds=2.5),
)
JOB = job_attributes(POLICY, cores=8)
ACCESS_DENIED, INVALID_PARAMETER = 5, 87
NO_CONTAINERS = 0x8007_0057  # E_INVALIDARG as an HRESULT
READ_SID = "S-1-15-3-1024-1"


def as_hresult(code: int) -> int:
    return code - (1 << 32)


#: Each call with the function that Windows refuses, and the error that Windows then gives.
REFUSALS: list[tuple[Callable[[], Any], dict[str, Any], int]] = [
    (calls.create_job, {"CreateJobObjectW": None}, ACCESS_DENIED),
    (lambda: calls.limit_job(1, JOB), {"SetInformationJobObject": 0}, INVALID_PARAMETER),
    (lambda: calls.assign(1, 2), {"AssignProcessToJobObject": 0}, ACCESS_DENIED),
    (lambda: calls.terminate_job(1, 9), {"TerminateJobObject": 0}, ACCESS_DENIED),
    (lambda: calls.job_usage(1), {"QueryInformationJobObject": 0}, 1),
    (lambda: calls.set_inheritable(3, True), {"SetHandleInformation": 0}, 6),
    (lambda: calls.resume(3), {"ResumeThread": 0xFFFF_FFFF}, 6),
    (lambda: calls.terminate(3, 9), {"TerminateProcess": 0}, ACCESS_DENIED),
    (
        lambda: calls.exit_code(3),
        {"WaitForSingleObject": 0xFFFF_FFFF, "GetExitCodeProcess": 1},
        6,
    ),
    (lambda: calls.exit_code(3), {"WaitForSingleObject": 0, "GetExitCodeProcess": 0}, 6),
    (lambda: calls.close_handle(3), {"CloseHandle": 0}, 6),
    (lambda: calls.change_limits(1, JOB), {"SetInformationJobObject": 0}, INVALID_PARAMETER),
    (lambda: calls.duplicate(3, 4), {"DuplicateHandle": 0}, ACCESS_DENIED),
    (calls.create_pipe, {"CreatePipe": 0}, 8),  # ERROR_NOT_ENOUGH_MEMORY
    (lambda: calls.write_pipe(3, b"x"), {"WriteFile": 0}, 232),  # ERROR_NO_DATA: it is closed
    (lambda: calls.read_pipe(3, 1), {"ReadFile": 0}, 109),  # ERROR_BROKEN_PIPE
    (calls.in_container, {"OpenProcessToken": 0}, ACCESS_DENIED),
    (
        calls.in_container,
        {"OpenProcessToken": fill(77), "GetTokenInformation": 0, "CloseHandle": 1},
        INVALID_PARAMETER,
    ),
    (calls.in_job, {"IsProcessInJob": 0}, ACCESS_DENIED),
    (calls.processor_groups, {"GetActiveProcessorGroupCount": 0, "GetActiveProcessorCount": 0}, 87),
    (calls.processor_groups, {"GetActiveProcessorGroupCount": 2, "GetActiveProcessorCount": 0}, 87),
    (lambda: calls.capability_sid("x"), {"DeriveCapabilitySidsFromName": 0}, INVALID_PARAMETER),
    (lambda: calls.sid_text(1), {"ConvertSidToStringSidW": 0}, 1337),  # ERROR_INVALID_SID
]


@pytest.mark.parametrize(("call", "answers", "error"), REFUSALS)
def test_each_refusal_says_what_was_being_done(
    monkeypatch: pytest.MonkeyPatch, call: Callable[[], Any], answers: dict[str, Any], error: int
) -> None:
    library = install(monkeypatch, calls, error=error, **answers)
    with pytest.raises(OSError, match=f"^.*cannot .*Windows error {error}"):
        call()
    assert library.names()[0] == next(iter(answers))


def test_container_sid_by_hresult(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, calls, DeriveAppContainerSidFromAppContainerName=as_hresult(NO_CONTAINERS))
    with pytest.raises(OSError, match=str(NO_CONTAINERS)):
        calls.container_sid("axiom")

    def derive(name: str, sid: Any) -> int:
        sid._obj.value = 0x7FF0_0000_1234  # larger than 32 bits, as pointers are
        return 0

    install(monkeypatch, calls, DeriveAppContainerSidFromAppContainerName=derive)
    assert calls.container_sid("axiom") == 0x7FF0_0000_1234


def test_job_gets_every_limit_before_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    library = install(monkeypatch, calls, SetInformationJobObject=1, CreateJobObjectW=1 << 33)
    assert calls.create_job() == 1 << 33
    calls.limit_job(5, JOB)
    set_classes = {kind: data for _, _, kind, data, _ in library.calls[1:]}
    assert set(set_classes) == {9, 4, 15}
    assert struct.unpack("<I", set_classes[4]) == (0xFF,)
    assert struct.unpack("<II", set_classes[15]) == (0x5, 1250)  # one of 8 cores


def test_192_cores_are_three_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    cores = {0: 64, 1: 64, 2: 64}
    install(
        monkeypatch,
        calls,
        GetActiveProcessorGroupCount=3,
        GetActiveProcessorCount=cores.__getitem__,
    )
    groups = calls.processor_groups()
    assert groups == [64, 64, 64]
    turns = Counter(group_of(turn, groups) for turn in range(192))
    assert turns == {0: 64, 1: 64, 2: 64}
    assert Counter(group_of(turn, [20, 4]) for turn in range(24)) == {0: 20, 1: 4}
    assert group_of(5, [16]) is None
    job = job_attributes(POLICY, sum(groups), 2)
    assert dict(job.settings())[11] == b"\x02\0"  # JobObjectGroupInformation, a USHORT


def test_job_usage_is_read_at_its_places(monkeypatch: pytest.MonkeyPatch) -> None:
    def query(job: int, kind: int, data: Any, size: int, returned: Any) -> int:
        raw = bytearray(size)
        if kind == 1:  # JOBOBJECT_BASIC_ACCOUNTING_INFORMATION, 48 bytes
            assert size == 48
            struct.pack_into("<qq", raw, 0, 15_000_000, 2_500_000)
        else:  # JOBOBJECT_EXTENDED_LIMIT_INFORMATION, 144 bytes
            assert (kind, size) == (9, 144)
            struct.pack_into("<QQ", raw, 128, 123_456_789, 5)
        ctypes.memmove(data, bytes(raw), size)
        return 1

    install(monkeypatch, calls, QueryInformationJobObject=query)
    usage = calls.job_usage(5)
    assert (usage.user_seconds, usage.system_seconds) == (1.5, 0.25)
    assert usage.peak_memory_bytes == 123_456_789


def test_structures_have_the_layout_of_64_bit_windows() -> None:
    sizes = {
        calls._StartupInfo: 112, calls._ProcessInformation: 24, calls._SecurityCapabilities: 24,
        calls._SidAndAttributes: 16,
    }  # fmt: skip
    assert {kind: ctypes.sizeof(kind) for kind in sizes} == sizes
    assert calls._StartupInfo.hStdInput.offset == 80
    assert calls._StartupInfo.lpAttributeList.offset == 104


def test_exit_code_of_running_and_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, calls, WaitForSingleObject=0x102)
    assert calls.exit_code(3) is None
    install(monkeypatch, calls, WaitForSingleObject=0, GetExitCodeProcess=fill(0xC000_0005))
    assert calls.exit_code(3) == 0xC000_0005


def test_token_and_job_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def information(token: Any, kind: int, value: Any, size: int, returned: Any) -> int:
        assert (kind, size) == (29, 4)  # TokenIsAppContainer, a DWORD
        value._obj.value = 1
        return 1

    library = install(
        monkeypatch, calls, OpenProcessToken=fill(77), GetTokenInformation=information,
        CloseHandle=1, IsProcessInJob=fill(False),
    )  # fmt: skip
    assert calls.in_container()
    assert ("CloseHandle", 77) in library.calls
    assert not calls.in_job()


def test_bytes_waiting_and_a_closed_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, calls, PeekNamedPipe=fill(1))
    assert calls.bytes_waiting(3) == 1
    install(monkeypatch, calls, error=109, PeekNamedPipe=0)  # ERROR_BROKEN_PIPE
    assert calls.bytes_waiting(3) is None


def test_a_handle_for_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def duplicate(source: int, handle: int, target: int, made: Any, *rest: Any) -> int:
        assert (source, handle, target, rest) == (-1, 31, 21, (0, False, 2))  # with equal rights
        made._obj.value = 44
        return 1

    install(monkeypatch, calls, DuplicateHandle=duplicate)
    assert calls.duplicate(31, 21) == 44


def test_a_pipe_and_what_goes_through_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def create(reading: Any, writing: Any, attributes: Any, size: int) -> int:
        reading._obj.value, writing._obj.value = 1 << 33, 52
        assert (attributes, size >= 4096) == (None, True)  # None: no process inherits it
        return 1

    def read(pipe: int, data: Any, size: int, done: Any, overlapped: Any) -> int:
        ctypes.memmove(data, b"abc", 3)
        done._obj.value = 3
        return 1

    library = install(monkeypatch, calls, CreatePipe=create, ReadFile=read, WriteFile=1)
    assert calls.create_pipe() == (1 << 33, 52)
    assert calls.read_pipe(51, 10) == b"abc"
    calls.write_pipe(52, b"x\n")
    assert library.calls[-1][1:4] == (52, b"x\n", 2)


def test_limits_of_use_change_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The group of processors and the user interface stay as they were before it ran."""
    library = install(monkeypatch, calls, SetInformationJobObject=1)
    calls.change_limits(5, JOB)
    [(_, job, kind, data, _)] = library.calls
    assert (job, kind, data) == (5, 9, JOB.packed())


def test_sid_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    library = install(monkeypatch, calls, ConvertSidToStringSidW=fill(READ_SID), LocalFree=None)
    assert calls.sid_text(1) == READ_SID
    assert library.names() == ["ConvertSidToStringSidW", "LocalFree"]


def test_capability_sid(monkeypatch: pytest.MonkeyPatch) -> None:
    sids = (ctypes.c_void_p * 1)(0x1_0000_0042)

    def derive(name: str, groups: Any, group_count: Any, found: Any, count: Any) -> int:
        found._obj.contents = ctypes.c_void_p.from_buffer(sids)
        count._obj.value = 1
        return 1

    install(monkeypatch, calls, DeriveCapabilitySidsFromName=derive)
    assert calls.capability_sid("axiom") == 0x1_0000_0042


# ---- starting a process


def starting(monkeypatch: pytest.MonkeyPatch, **other: Any) -> RecordedLibrary:
    """Windows where everything that starts a process succeeds, but for ``other``."""

    def size_of_list(attributes: Any, count: int, flags: int, size: Any) -> int:
        size._obj.value = 200
        return 0 if attributes is None else 1  # the first call fails with 122 by design

    def create(*arguments: Any) -> int:
        made = arguments[9]._obj
        made.hProcess, made.hThread, made.dwProcessId = 21, 22, 4242
        return 1

    answers: dict[str, Any] = {
        "CreateJobObjectW": 11, "SetInformationJobObject": 1, "AssignProcessToJobObject": 1,
        "InitializeProcThreadAttributeList": size_of_list, "UpdateProcThreadAttribute": 1,
        "DeleteProcThreadAttributeList": None, "SetHandleInformation": 1,
        "CreateProcessW": create, "ResumeThread": 1, "TerminateProcess": 1, "CloseHandle": 1,
        "FreeSid": None, **other,
    }  # fmt: skip
    return install(monkeypatch, calls, **answers)


def start() -> ConfinedProcess:
    container = windows_container.Container(0x51D, (0xCA9,))
    return ConfinedProcess(
        ["C:\\Program Files\\Python\\python.exe", "-c", 'print("a b")'],
        {"b": "2", "A": "ü"}, POLICY.folder, (31, 32, 33), JOB, container,
    )  # fmt: skip


def test_process_is_in_its_job_before_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    library = starting(monkeypatch)
    process = start()
    assert process.pid == 4242
    names = library.names()
    assert names.index("SetInformationJobObject") < names.index("CreateProcessW")
    order = ["CreateProcessW", "AssignProcessToJobObject", "ResumeThread"]
    assert [name for name in names if name in order] == order
    created = next(call for call in library.calls if call[0] == "CreateProcessW")
    assert created[2].value == '"C:\\Program Files\\Python\\python.exe" -c "print(\\"a b\\")"'
    assert created[6] & 0x4  # CREATE_SUSPENDED
    assert created[7].raw[:-1].decode("utf-16-le").startswith("A=ü\0b=2\0")
    kinds = [call[3] for call in library.calls if call[0] == "UpdateProcThreadAttribute"]
    assert kinds == [0x20002, 0x20009, 0x2000E]  # handles, AppContainer, no child processes
    inherited = [call[1:] for call in library.calls if call[0] == "SetHandleInformation"]
    assert inherited == [(h, 1, 1) for h in (31, 32, 33)] + [(h, 1, 0) for h in (31, 32, 33)]


@pytest.mark.parametrize(
    ("refused", "ended"),
    [
        ({"CreateProcessW": 0}, False),
        ({"UpdateProcThreadAttribute": 0}, False),
        ({"AssignProcessToJobObject": 0}, True),
        ({"ResumeThread": 0xFFFF_FFFF}, True),
    ],
)
def test_nothing_is_left_of_a_process_that_cannot_be_confined(
    monkeypatch: pytest.MonkeyPatch, refused: dict[str, Any], ended: bool
) -> None:
    library = starting(monkeypatch, **refused)
    with pytest.raises(OSError, match="cannot"):
        start()
    assert ("TerminateProcess" in library.names()) == ended
    closed = {call[1] for call in library.calls if call[0] == "CloseHandle"}
    assert 11 in closed  # the job, which ends what is in it
    assert ({21, 22} <= closed) == ended
    assert library.names()[-1] == "FreeSid"


# ---- permissions of folders


class Icacls:
    """icacls with the permissions that it would list, and what it was asked to grant."""

    def __init__(self, listed: str = "", code: int = 0) -> None:
        self.listed, self.code = listed, code
        self.granted: list[list[str]] = []

    def __call__(self, arguments: Any) -> tuple[int, str]:
        if "/grant" in arguments:
            self.granted.append(list(arguments))
            return self.code, "Access is denied.\n" if self.code else "processed file"
        return 0, self.listed


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows_container, "_readable", set())
    windows_container._capability.cache_clear()


@pytest.mark.usefixtures("fresh")
def test_libraries_are_opened_once_and_only_where_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ProgramFiles", "/Program Files")
    icacls = Icacls()
    for _ in range(2):
        windows_container.allow_reading(["/Python", "/Program Files/Python"], READ_SID, icacls)
    assert icacls.granted == [["/Python", "/grant", f"*{READ_SID}:(OI)(CI)RX", "/q"]]
    windows_container._readable.clear()
    known = Icacls(listed=f"/Python {READ_SID}:(OI)(CI)(RX)")
    windows_container.allow_reading(["/Python"], READ_SID, known)
    assert not known.granted


@pytest.mark.usefixtures("fresh")
def test_refused_permission_says_what_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SandboxError, match=r"Access is denied.*as administrator: icacls"):
        windows_container.allow_reading(["/Python"], READ_SID, Icacls(code=5))


@pytest.mark.usefixtures("fresh")
def test_a_task_s_folder_is_its_container_s_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "container_sid", lambda name: 1)
    monkeypatch.setattr(calls, "capability_sid", lambda name: 2)
    monkeypatch.setattr(calls, "sid_text", lambda sid: f"S-{sid}")
    freed: list[int] = []
    monkeypatch.setattr(calls, "free_sid", freed.append)
    icacls = Icacls()
    made = windows_container.prepare(container_attributes(POLICY, "task-7"), icacls)
    assert (made.sid, made.capabilities) == (1, (2,))
    own = next(words for words in icacls.granted if words[0] == POLICY.folder)
    assert own[2].startswith("*S-1:")
    assert "WDAC" not in own[2]
    assert not freed
    windows_container._readable.clear()
    with pytest.raises(SandboxError):
        windows_container.prepare(container_attributes(POLICY, "task-7"), Icacls(code=5))
    assert freed == [1]


def test_windows_without_containers_runs_no_task(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, windows_container)
    assert "has no AppContainers" in windows_container.missing()
    both = {"DeriveAppContainerSidFromAppContainerName": 0, "DeriveCapabilitySidsFromName": 1}
    install(monkeypatch, windows_container, **both)
    assert windows_container.missing() == ""

    def no_library(name: str) -> Any:
        raise OSError(f"no {name}")

    monkeypatch.setattr(windows_container, "windows_library", no_library)
    assert "no userenv" in windows_container.missing()


def test_icacls_that_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(windows_container, "find_program", lambda name: None)
    with pytest.raises(SandboxError, match="icacls is not in PATH"):
        windows_container.run_icacls(["."])
    monkeypatch.setattr(windows_container, "find_program", lambda name: str(tmp_path / "none"))
    with pytest.raises(SandboxError, match="icacls failed"):
        windows_container.run_icacls(["."])


# ---- ends


def test_ends_as_the_judge_knows_them() -> None:
    assert wait_status(0) == 0
    assert wait_status(1) == 1 << 8
    assert wait_status(ENDED_BY_AGENT) == SIGKILL
    assert wait_status(1816) == SIGXCPU
    assert wait_status(0xC000_0005) == 11
    assert wait_status(0xC000_0409) == 6  # STATUS_STACK_BUFFER_OVERRUN: an abort
    assert wait_status(70_000) == 255 << 8


def test_usage_that_windows_does_not_tell_costs_no_result() -> None:
    def refuse() -> calls.JobUsage:
        raise OSError(1, "Invalid function")  # as wine 8 answers

    process: Any = SimpleNamespace(usage=refuse)
    assert windows_task_process.usage_of(process) == calls.JobUsage()


def test_environment_is_sorted_as_windows_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYSTEMROOT", "C:\\Windows")
    monkeypatch.delenv("SYSTEMDRIVE", raising=False)
    assert windows_process._block({"b": "1", "A": "2"}) == "A=2\0b=1\0SYSTEMROOT=C:\\Windows\0\0"
