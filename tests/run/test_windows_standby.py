"""A standby process on Windows, with recorded answers of the system: what it is given, and when.

`make wine` runs the same with real processes, but for the AppContainer.
"""

from __future__ import annotations

import asyncio
import ctypes
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from axiom_client.run import windows_standby, windows_task_process
from axiom_client.run.channel import ChildEnds
from axiom_client.run.windows_standby import WindowsStandbyProcess
from axiom_client.run.zygote_messages import Broken, Ended, Ready, Started, ZygoteMessage
from axiom_client.sandbox import windows_calls as calls
from axiom_client.sandbox import windows_container
from axiom_client.sandbox.policy import RUNTIME_BYTES, Limits, Policy
from tests.support.recorded_library import RecordedLibrary, fill, install

ENDS = ChildEnds(assignment=31, channel=32, output=33)
POLICY = Policy(
    folder="/task", folders=("/member",), read_only=("/lib",),
    limits=Limits(memory_bytes=1_000_000, file_bytes=5_000, cpu_seconds=2.5),
)  # fmt: skip
RUNNING, ENDED = 0x102, 0


class Windows:
    """Windows where everything succeeds, but for ``refused``; ``says`` is what the process wrote.

    The job has used a second of user time and half of one of the system's.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.says, self.state, self.code, self.starts = b"", RUNNING, 0, 0
        self.granted = folder / "granted"
        self.granted.touch()
        icacls = folder / "icacls"
        icacls.write_text(f'#!/bin/sh\necho "$@" >> {self.granted}\n')
        icacls.chmod(0o700)
        monkeypatch.setattr(windows_container, "find_program", lambda name: str(icacls))
        monkeypatch.setattr(windows_container, "_readable", set())
        windows_container._capability.cache_clear()
        monkeypatch.setattr(windows_task_process, "EXIT_CHECK_SECONDS", 0.01)
        monkeypatch.setattr(windows_standby, "EXIT_CHECK_SECONDS", 0.01)
        self._monkeypatch = monkeypatch
        self._sids = (ctypes.c_void_p * 1)(0xCA9)
        self.answer()

    def answer(self, **refused: Any) -> None:
        """Answer from now on, and refuse these."""
        one = dict.fromkeys(
            ["SetInformationJobObject", "AssignProcessToJobObject", "UpdateProcThreadAttribute",
             "SetHandleInformation", "ResumeThread", "TerminateProcess", "TerminateJobObject",
             "CloseHandle", "WriteFile"], 1,
        )  # fmt: skip
        answers: dict[str, Any] = {
            **one, "CreateJobObjectW": 11, "DeleteProcThreadAttributeList": None, "FreeSid": None,
            "LocalFree": None, "InitializeProcThreadAttributeList": self._size,
            "CreateProcessW": self._create, "WaitForSingleObject": lambda *_: self.state,
            "GetExitCodeProcess": lambda *words: fill(self.code)(*words), "IsProcessInJob": fill(0),
            "GetActiveProcessorGroupCount": 1, "GetActiveProcessorCount": 8,
            "CreatePipe": self._pipe, "PeekNamedPipe": self._peek, "ReadFile": self._read,
            "QueryInformationJobObject": self._query, "DuplicateHandle": self._duplicate,
            "DeriveAppContainerSidFromAppContainerName": lambda name, sid: fill(0x51D)(sid) - 1,
            "DeriveCapabilitySidsFromName": self._capability,
            "ConvertSidToStringSidW": lambda sid, text: fill(f"S-{sid:x}")(text), **refused,
        }  # fmt: skip
        self.library: RecordedLibrary = install(
            self._monkeypatch, calls, windows_container, error=5, **answers
        )

    def _size(self, attributes: Any, count: int, flags: int, size: Any) -> int:
        size._obj.value = 200
        return 0 if attributes is None else 1

    def _create(self, *arguments: Any) -> int:
        self.starts += 1
        made = arguments[9]._obj
        made.hProcess, made.hThread, made.dwProcessId = 21, 22, 4000 + self.starts
        return 1

    def _pipe(self, reading: Any, writing: Any, *_: Any) -> int:
        reading._obj.value, writing._obj.value = 61, 62
        return 1

    def _peek(self, pipe: int, data: Any, size: int, read: Any, waiting: Any, left: Any) -> int:
        waiting._obj.value = len(self.says)
        return 1

    def _read(self, pipe: int, data: Any, size: int, done: Any, overlapped: Any) -> int:
        ctypes.memmove(data, self.says, len(self.says))
        done._obj.value, self.says = len(self.says), b""
        return 1

    def _query(self, job: int, kind: int, data: Any, size: int, returned: Any) -> int:
        raw = bytearray(size)
        struct.pack_into("<qq", raw, 0, 10_000_000, 5_000_000)
        ctypes.memmove(data, bytes(raw), size)
        return 1

    def _duplicate(self, source: int, handle: int, target: int, made: Any, *_: Any) -> int:
        assert target == 21
        made._obj.value = 100 + handle
        return 1

    def _capability(self, name: str, groups: Any, groups_count: Any, found: Any, count: Any) -> int:
        found._obj.contents = ctypes.c_void_p.from_buffer(self._sids)
        count._obj.value = 1
        return 1

    def made(self, name: str) -> list[tuple[Any, ...]]:
        """The arguments of each call of this function since the last ``answer``."""
        return [call[1:] for call in self.library.calls if call[0] == name]


class Pool:
    """What a process tells its pool."""

    def __init__(self) -> None:
        self.messages: list[ZygoteMessage] = []
        self.changes: list[tuple[bool, bool]] = []

    def changed(self, process: WindowsStandbyProcess) -> None:
        self.changes.append((process.ready, process.gone))

    def start(self) -> WindowsStandbyProcess:
        return WindowsStandbyProcess(
            "numpy", self.messages.append, self.changed, {}, background=True
        )


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Windows:
    return Windows(monkeypatch, tmp_path)


async def until(holds: Callable[[], bool]) -> None:
    for _ in range(1000):
        if holds():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not happen")


def running(use: Callable[[Pool], Awaitable[None]]) -> None:
    """Run ``use`` in a loop."""

    async def body() -> None:
        await use(Pool())

    asyncio.run(body())


def line(message: msgspec.Struct) -> bytes:
    return msgspec.json.encode(message) + b"\n"


def test_it_waits_confined_without_a_folder(windows: Windows) -> None:
    async def use(pool: Pool) -> None:
        process = pool.start()
        kinds = [call[2] for call in windows.made("UpdateProcThreadAttribute")]
        assert kinds == [0x20002, 0x20009, 0x2000E]  # handles, AppContainer, no child processes
        first = windows.made("SetInformationJobObject")[0]
        assert struct.unpack_from("<Q", first[2], 112)[0] == RUNTIME_BYTES
        assert "S-51d" not in windows.granted.read_text()  # no folder is its own yet
        assert [call[0] for call in windows.made("CloseHandle")].count(61) == 1  # the child's ends
        windows.says = line(Ready())
        await until(lambda: process.ready)
        assert pool.changes == [(True, False)]
        windows.state = ENDED
        await until(lambda: process.gone)

    running(use)


def test_with_a_task_it_gets_limits_folders_and_pipes_in_this_order(windows: Windows) -> None:
    async def use(pool: Pool) -> None:
        process = pool.start()
        windows.says = line(Ready())
        await until(lambda: process.ready)
        windows.answer()
        process.use(POLICY)
        process.start(7, ENDS)
        order = ["SetInformationJobObject", "DuplicateHandle", "WriteFile"]
        names = [name for name in windows.library.names() if name in order]
        assert list(dict.fromkeys(names)) == order
        [(_, kind, data, _)] = windows.made("SetInformationJobObject")
        assert kind == 9
        assert struct.unpack_from("<q", data)[0] == 35_000_000  # 2.5 s and the second before
        assert struct.unpack_from("<Q", data, 112)[0] == RUNTIME_BYTES + 1_000_000
        [(_, written, _, _, _)] = windows.made("WriteFile")
        assert written == b"[131,132,133]\n"
        granted = windows.granted.read_text().splitlines()
        assert [text.split()[0] for text in granted if "S-51d" in text] == ["/task", "/member"]
        await until(lambda: bool(pool.messages))
        [started] = pool.messages
        assert isinstance(started, Started)
        assert (started.pid, started.cpu_seconds) == (4001, 1.5)
        windows.state = ENDED
        await until(lambda: len(pool.messages) == 2)
        ended = pool.messages[1]
        assert isinstance(ended, Ended)
        assert (ended.status, ended.user_seconds, ended.system_seconds) == (0, 0.0, 0.0)
        assert not process.gone  # it had a task

    running(use)


@pytest.mark.parametrize(
    "refused",
    [{"DuplicateHandle": 0}, {"WriteFile": 0}, {"SetInformationJobObject": 0}],
    ids=["no handle", "it has ended", "no limits"],
)
def test_what_cannot_be_handed_over_starts_in_a_new_interpreter(
    windows: Windows, refused: dict[str, int]
) -> None:
    async def use(pool: Pool) -> None:
        process = pool.start()
        windows.says = line(Ready())
        await until(lambda: process.ready)
        once = iter([0])

        def refuse_once(*_: Any) -> int:
            return next(once, 1)

        windows.answer(**dict.fromkeys(refused, refuse_once))
        process.use(POLICY)
        process.start(7, ENDS)
        assert windows.starts == 2
        assert 11 in [call[0] for call in windows.made("CloseHandle")]  # the first one's job
        await until(lambda: bool(pool.messages))
        [started] = pool.messages
        assert isinstance(started, Started)
        assert (started.pid, started.cpu_seconds) == (4002, 0.0)

    running(use)


def test_a_folder_that_cannot_be_opened_is_the_task_s_problem(windows: Windows) -> None:
    async def use(pool: Pool) -> None:
        process = pool.start()
        windows.says = line(Ready())
        await until(lambda: process.ready)
        (windows.granted.parent / "icacls").write_text(
            "#!/bin/sh\necho Access is denied.\nexit 5\n"
        )
        process.use(POLICY)
        with pytest.raises(OSError, match="Access is denied"):
            process.start(7, ENDS)
        assert not process.tasks

    running(use)


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        (line(Broken("ImportError: numpy")), "ImportError: numpy"),
        (b"Fatal Python error: init_fs_encoding\r\n", "Fatal Python error: init_fs_encoding"),
        (b"", ""),
    ],
)
def test_it_ends_without_a_task_and_says_why(windows: Windows, said: bytes, problem: str) -> None:
    async def use(pool: Pool) -> None:
        process = pool.start()
        windows.says, windows.state, windows.code = said, ENDED, 1
        await until(lambda: process.gone)
        assert (process.ready, process.problem) == (False, problem)
        closed = [call[0] for call in windows.made("CloseHandle")]
        assert {21, 11, 61, 62} <= set(closed)

    running(use)


@pytest.mark.parametrize("refused", ["CreatePipe", "CreateProcessW", "CreateJobObjectW"])
def test_one_that_cannot_be_started_leaves_nothing(windows: Windows, refused: str) -> None:
    async def use(pool: Pool) -> None:
        windows.answer(**{refused: 0})
        with pytest.raises(OSError, match="cannot"):
            pool.start()
        opened = 2 * len(windows.made("CreatePipe")) if refused != "CreatePipe" else 0
        closed = [call[0] for call in windows.made("CloseHandle") if call[0] in (61, 62)]
        assert len(closed) == opened

    running(use)


def test_it_is_ended_by_its_job(windows: Windows) -> None:
    async def use(pool: Pool) -> None:
        process = pool.start()
        process.end()
        assert [call[0] for call in windows.made("TerminateJobObject")] == [11]

    running(use)
