"""The Windows service manager with recorded answers in place of pywin32.

pywin32 raises ``pywintypes.error`` with ``winerror`` and ``strerror``. A service's status is a
tuple whose second field is its state (SERVICE_STATUS). 1060 is ERROR_SERVICE_DOES_NOT_EXIST, 1062
ERROR_SERVICE_NOT_ACTIVE, 1073 ERROR_SERVICE_EXISTS, 5 ERROR_ACCESS_DENIED.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest

from axiom_client.errors import ServiceProblem
from axiom_client.sandbox import windows_calls
from axiom_client.service import windows
from axiom_client.service.windows import WindowsService
from tests.support.recorded_library import install

RUNNING, STOPPED = 4, 1


class Refusal(Exception):
    """pywintypes.error."""

    def __init__(self, winerror: int, strerror: str) -> None:
        super().__init__(winerror, "function", strerror)
        self.winerror, self.strerror = winerror, strerror


class Windows:
    """pywin32's modules with recorded answers; what was called, with its arguments."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.refused: dict[str, Refusal] = {}
        self.state = STOPPED

    def function(self, name: str, answer: Any = None) -> Callable[..., Any]:
        def call(*arguments: Any, **_: Any) -> Any:
            self.calls.append((name, *arguments))
            if name in self.refused:
                raise self.refused[name]
            return answer() if callable(answer) else answer

        return call

    def modules(self) -> dict[str, ModuleType]:
        service: Any = ModuleType("win32service")
        for name in (
            "SC_MANAGER_ALL_ACCESS", "SERVICE_ALL_ACCESS", "SERVICE_WIN32_OWN_PROCESS",
            "SERVICE_AUTO_START", "SERVICE_ERROR_NORMAL", "SERVICE_CONFIG_DESCRIPTION",
            "SERVICE_CONFIG_DELAYED_AUTO_START_INFO", "SERVICE_CONFIG_FAILURE_ACTIONS",
            "SC_ACTION_RESTART",
        ):  # fmt: skip
            setattr(service, name, name)
        service.SERVICE_RUNNING, service.SERVICE_STOPPED = RUNNING, STOPPED
        service.SERVICE_START_PENDING, service.SERVICE_STOP_PENDING = 2, 3
        service.error = Refusal
        service.OpenSCManager = self.function("OpenSCManager", "manager")
        service.CreateService = self.function("CreateService", "service")
        service.ChangeServiceConfig2 = self.function("ChangeServiceConfig2")
        service.CloseServiceHandle = self.function("CloseServiceHandle")
        utilities: Any = ModuleType("win32serviceutil")
        utilities.ServiceFramework = object
        for name in ("RemoveService", "StartService", "StopService", "WaitForServiceStatus"):
            setattr(utilities, name, self.function(name))
        utilities.QueryServiceStatus = self.function(
            "QueryServiceStatus", lambda: (16, self.state, 0, 0, 0, 0, 0)
        )
        return {
            "win32service": service, "win32serviceutil": utilities,
            "servicemanager": ModuleType("servicemanager"), "win32event": ModuleType("win32event"),
        }  # fmt: skip


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Windows, Any]]:
    system = Windows()
    for name, module in system.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "axiom_client.service.windows_service", raising=False)
    yield system, importlib.import_module("axiom_client.service.windows_service")
    sys.modules.pop("axiom_client.service.windows_service", None)


def test_created_service_starts_with_windows_and_again_after_a_crash(
    recorded: tuple[Windows, Any],
) -> None:
    system, module = recorded
    WindowsService(manager=module.Pywin32Manager()).install()
    created = next(call for call in system.calls if call[0] == "CreateService")
    assert "SERVICE_AUTO_START" in created
    assert created[-2] == r"NT AUTHORITY\LocalService"
    settings = {call[2]: call[3] for call in system.calls if call[0] == "ChangeServiceConfig2"}
    assert settings["SERVICE_CONFIG_DELAYED_AUTO_START_INFO"] is True
    actions = settings["SERVICE_CONFIG_FAILURE_ACTIONS"]
    delays = [delay for kind, delay in actions["Actions"] if kind == "SC_ACTION_RESTART"]
    assert delays == list(windows.RESTART_DELAYS_MS)
    closed = [call[1] for call in system.calls if call[0] == "CloseServiceHandle"]
    assert closed == ["service", "manager"]
    assert system.calls[-1] == ("StartService", windows.NAME)


@pytest.mark.parametrize(
    ("function", "refusal", "act"),
    [
        ("OpenSCManager", Refusal(5, "Access is denied."), "install"),
        ("CreateService", Refusal(1073, "The specified service already exists."), "install"),
        ("ChangeServiceConfig2", Refusal(5, "Access is denied."), "install"),
        ("StartService", Refusal(1053, "The service did not respond."), "install"),
        ("StopService", Refusal(5, "Access is denied."), "restart"),
        ("WaitForServiceStatus", Refusal(258, "The wait timed out."), "restart"),
        ("RemoveService", Refusal(5, "Access is denied."), "uninstall"),
    ],
)
def test_each_refusal_says_what_to_do(
    recorded: tuple[Windows, Any], function: str, refusal: Refusal, act: str
) -> None:
    system, module = recorded
    system.refused[function] = refusal
    with pytest.raises(ServiceProblem, match=f"{refusal.strerror}.*as administrator"):
        getattr(WindowsService(manager=module.Pywin32Manager()), act)()


def test_state_of_the_service(recorded: tuple[Windows, Any]) -> None:
    system, module = recorded
    service = WindowsService(manager=module.Pywin32Manager())
    system.state = RUNNING
    assert (service.status().running, service.status().detail) == (True, "running")
    system.state = 7  # SERVICE_PAUSED
    assert service.status().detail == "paused"
    system.refused["QueryServiceStatus"] = Refusal(1060, "The service does not exist.")
    assert not service.status().installed
    system.refused["QueryServiceStatus"] = Refusal(5, "Access is denied.")
    with pytest.raises(ServiceProblem, match=r"did not show the service: Access is denied"):
        service.status()


def test_stopping_what_has_stopped_is_no_failure(recorded: tuple[Windows, Any]) -> None:
    system, module = recorded
    system.refused["StopService"] = Refusal(1062, "The service has not been started.")
    assert "removed" in WindowsService(manager=module.Pywin32Manager()).uninstall()
    assert ("RemoveService", windows.NAME) in system.calls


def test_agent_ends_with_its_service(
    recorded: tuple[Windows, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, module = recorded
    library = install(
        monkeypatch, windows_calls, CreateJobObjectW=11, SetInformationJobObject=1,
        AssignProcessToJobObject=1,
    )  # fmt: skip
    module._end_agent_with_service()
    assert library.calls[-1] == ("AssignProcessToJobObject", 11, -1)
    limited = [call for call in library.calls if call[0] == "SetInformationJobObject"]
    assert [call[2] for call in limited] == [9]
    assert limited[0][3][16:20] == b"\x00\x20\x00\x00"  # LimitFlags: KILL_ON_JOB_CLOSE alone
