"""When somebody last used the computer, on Windows and macOS, with recorded answers.

Microsoft's reference: GetLastInputInfo and ProcessIdToSessionId return 0 on failure,
WTSGetActiveConsoleSessionId 0xFFFFFFFF where nobody is at the console. Apple's: 0 is no service,
NULL no property, false a number that does not fit.
"""

from __future__ import annotations

import ctypes
import math
from typing import Any

import pytest

from axiom_client.host import macos_input, terminals, windows_input
from axiom_client.system import libraries
from tests.support.recorded_library import RecordedLibrary, fill, install

DAY_MS = 86_400_000


def last_input(tick_ms: int) -> Any:
    def answer(info: Any) -> int:
        assert info._obj.cbSize == 8
        info._obj.dwTime = tick_ms
        return 1

    return answer


def windows(monkeypatch: pytest.MonkeyPatch, **answers: Any) -> RecordedLibrary:
    return install(monkeypatch, libraries, **{"ProcessIdToSessionId": fill(1), **answers})


def test_windows_counts_since_the_last_input(monkeypatch: pytest.MonkeyPatch) -> None:
    windows(monkeypatch, GetLastInputInfo=last_input(DAY_MS - 90_500), GetTickCount=DAY_MS)
    assert windows_input.input_seconds_ago() == 90.5


def test_windows_counts_over_the_turn_of_its_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    windows(monkeypatch, GetLastInputInfo=last_input(0xFFFF_FC18), GetTickCount=1_000)
    assert windows_input.input_seconds_ago() == 2.0


def test_windows_that_does_not_say(monkeypatch: pytest.MonkeyPatch) -> None:
    windows(monkeypatch, GetLastInputInfo=0)
    assert windows_input.input_seconds_ago() == math.inf
    windows(monkeypatch, ProcessIdToSessionId=0, GetLastInputInfo=last_input(5), GetTickCount=5)
    assert windows_input.input_seconds_ago() == 0.0  # not taken for a service


def console(state: int, flags: int) -> Any:
    def answer(server: Any, session: Any, kind: int, found: Any, size: Any) -> int:
        assert (session.value, kind) == (3, 25)
        found._obj.contents = windows_input._SessionInfo(1, 0, 3, state, flags)
        return 1

    return answer


@pytest.mark.parametrize(
    ("state", "flags", "seconds"),
    [(0, 1, 0.0), (0, 0, math.inf), (4, 1, math.inf)],
    ids=["somebody works", "locked", "disconnected"],
)
def test_a_service_asks_for_the_console(
    monkeypatch: pytest.MonkeyPatch, state: int, flags: int, seconds: float
) -> None:
    library = windows(
        monkeypatch, ProcessIdToSessionId=fill(0), WTSGetActiveConsoleSessionId=3,
        WTSQuerySessionInformationW=console(state, flags), WTSFreeMemory=None,
    )  # fmt: skip
    assert windows_input.input_seconds_ago() == seconds
    assert library.names()[-1] == "WTSFreeMemory"


def test_a_service_without_a_console(monkeypatch: pytest.MonkeyPatch) -> None:
    windows(monkeypatch, ProcessIdToSessionId=fill(0), WTSGetActiveConsoleSessionId=-1)
    assert windows_input.input_seconds_ago() == math.inf
    windows(
        monkeypatch, ProcessIdToSessionId=fill(0), WTSGetActiveConsoleSessionId=3,
        WTSQuerySessionInformationW=0,
    )  # fmt: skip
    assert windows_input.input_seconds_ago() == math.inf


# ---- macOS


def mac(monkeypatch: pytest.MonkeyPatch, **other: Any) -> RecordedLibrary:
    monkeypatch.setattr(terminals, "input_seconds_ago", lambda: math.inf)

    def number(value: Any, kind: int, found: Any) -> bool:
        assert (value, kind) == (9, 4)
        found._obj.value = 12_500_000_000
        return True

    answers = {
        "IOServiceMatching": 6, "IOServiceGetMatchingService": 7, "CFStringCreateWithCString": 8,
        "IORegistryEntryCreateCFProperty": 9, "CFNumberGetValue": number, "CFRelease": None,
        "IOObjectRelease": 0, **other,
    }  # fmt: skip
    return install(monkeypatch, libraries, **answers)


def test_mac_counts_nanoseconds_and_frees_what_it_was_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    library = mac(monkeypatch)
    assert macos_input.input_seconds_ago() == 12.5
    assert [call[1] for call in library.calls if call[0] == "CFRelease"] == [8, 9]
    assert ("IOObjectRelease", 7) in library.calls


@pytest.mark.parametrize(
    "refused",
    [
        {"IOServiceGetMatchingService": 0},
        {"IORegistryEntryCreateCFProperty": None},
        {"CFNumberGetValue": False},
    ],
)
def test_mac_that_does_not_say(monkeypatch: pytest.MonkeyPatch, refused: dict[str, Any]) -> None:
    mac(monkeypatch, **refused)
    assert macos_input.input_seconds_ago() == math.inf


def test_mac_with_somebody_at_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    mac(monkeypatch)
    monkeypatch.setattr(terminals, "input_seconds_ago", lambda: 3.0)
    assert macos_input.input_seconds_ago() == 3.0


def test_session_structure_has_the_documented_layout() -> None:
    """WTSINFOEXW: Level, then a union that is aligned to its LARGE_INTEGERs."""
    offsets = {name: getattr(windows_input._SessionInfo, name).offset
               for name in ("SessionId", "SessionState", "SessionFlags")}  # fmt: skip
    assert offsets == {"SessionId": 8, "SessionState": 12, "SessionFlags": 16}
    assert ctypes.sizeof(windows_input._LastInput) == 8
