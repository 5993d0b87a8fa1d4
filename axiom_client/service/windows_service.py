"""The part of the Windows service that needs pywin32: the service itself and its registration.

The service manager starts ``python -P -m axiom_client.service.windows_service``. When the agent
ends in a way that a restart may help, this process ends without reporting "stopped", which is what
makes the service manager take the recovery actions.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import servicemanager
import win32event
import win32service
import win32serviceutil

from axiom_client.service.base import NAME
from axiom_client.service.windows import (
    DESCRIPTION,
    DISPLAY_NAME,
    RESET_COUNT_SECONDS,
    RESTART_DELAYS_MS,
    Guardian,
    agent_command,
    data_folder,
    should_restart,
)

_NO_SUCH_SERVICE = 1060  # ERROR_SERVICE_DOES_NOT_EXIST
_NOT_ACTIVE = 1062  # ERROR_SERVICE_NOT_ACTIVE
_STOP_WAIT_SECONDS = 90  # longer than the agent may take
_STATES = {
    win32service.SERVICE_RUNNING: "running",
    win32service.SERVICE_STOPPED: "stopped",
    win32service.SERVICE_START_PENDING: "starting",
    win32service.SERVICE_STOP_PENDING: "stopping",
}


class AxiomService(win32serviceutil.ServiceFramework):
    """What runs while the service does."""

    _svc_name_ = NAME
    _svc_display_name_ = DISPLAY_NAME
    _svc_description_ = DESCRIPTION

    def __init__(self, arguments: list[str]) -> None:
        super().__init__(arguments)
        self._stop = win32event.CreateEvent(None, True, False, None)

    def SvcStop(self) -> None:
        """The manager's order to stop."""
        self.ReportServiceStatus(win32service.SERVICE_STOP_PENDING)
        win32event.SetEvent(self._stop)

    def SvcShutdown(self) -> None:
        """The machine goes down: the same."""
        self.SvcStop()

    def SvcDoRun(self) -> None:
        """The whole life of the service."""
        guardian = Guardian(
            command=agent_command(Path(sys.executable)),
            folder=data_folder(),
            wait_for_stop=self._told_to_stop,
            tell=servicemanager.LogInfoMsg,
        )
        code = guardian.run()
        if should_restart(code):
            servicemanager.LogErrorMsg(f"{NAME} ended with code {code}; it will be started again")
            os._exit(code)  # without a "stopped": the recovery actions follow

    def _told_to_stop(self, wait_ms: int) -> bool:
        answer = win32event.WaitForSingleObject(self._stop, wait_ms)
        return bool(answer == win32event.WAIT_OBJECT_0)


@contextmanager
def _refusals() -> Iterator[None]:
    """pywin32's error is no OSError: make it one."""
    try:
        yield
    except win32service.error as error:
        raise OSError(error.winerror, error.strerror) from error


class Pywin32Manager:
    """The service manager of this machine."""

    @_refusals()
    def create(self, name: str, display: str, description: str, command: str) -> None:
        """Register a service that starts with the machine, a little after everything else."""
        manager = win32service.OpenSCManager(None, None, win32service.SC_MANAGER_ALL_ACCESS)
        service = win32service.CreateService(
            manager, name, display, win32service.SERVICE_ALL_ACCESS,
            win32service.SERVICE_WIN32_OWN_PROCESS, win32service.SERVICE_AUTO_START,
            win32service.SERVICE_ERROR_NORMAL, command, None, False, None,
            r"NT AUTHORITY\LocalService", None,
        )  # fmt: skip
        change = win32service.ChangeServiceConfig2
        change(service, win32service.SERVICE_CONFIG_DESCRIPTION, description)
        change(service, win32service.SERVICE_CONFIG_DELAYED_AUTO_START_INFO, True)
        actions = [(win32service.SC_ACTION_RESTART, delay) for delay in RESTART_DELAYS_MS]
        recovery = {
            "ResetPeriod": RESET_COUNT_SECONDS, "RebootMsg": "", "Command": "", "Actions": actions,
        }  # fmt: skip
        change(service, win32service.SERVICE_CONFIG_FAILURE_ACTIONS, recovery)
        win32service.CloseServiceHandle(service)
        win32service.CloseServiceHandle(manager)

    @_refusals()
    def delete(self, name: str) -> None:
        """Stop it and take it away."""
        self.stop(name)
        win32serviceutil.RemoveService(name)

    def query(self, name: str) -> str | None:
        """Its state; None: there is no such service."""
        try:
            state = win32serviceutil.QueryServiceStatus(name)[1]
        except win32service.error as error:
            if error.winerror == _NO_SUCH_SERVICE:
                return None
            raise
        return _STATES.get(state, "paused")

    @_refusals()
    def start(self, name: str) -> None:
        """Start it."""
        win32serviceutil.StartService(name)

    @_refusals()
    def stop(self, name: str) -> None:
        """Stop it and wait until it is stopped; one that does not run is left alone."""
        try:
            win32serviceutil.StopService(name)
        except win32service.error as error:
            if error.winerror != _NOT_ACTIVE:
                raise
        win32serviceutil.WaitForServiceStatus(
            name, win32service.SERVICE_STOPPED, _STOP_WAIT_SECONDS
        )


def main() -> None:
    """What the service manager starts."""
    servicemanager.Initialize()
    servicemanager.PrepareToHostSingle(AxiomService)
    servicemanager.StartServiceCtrlDispatcher()  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
