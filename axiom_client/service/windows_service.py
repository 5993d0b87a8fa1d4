"""The part of the Windows service that needs pywin32: the service process and its registration.

The service manager starts ``python -P -m axiom_client.service.windows_service``. When a restart may
help, this process ends without reporting "stopped", which makes the service manager restart it.
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

from axiom_client.sandbox import windows_calls
from axiom_client.sandbox.windows import END_WITH_HANDLE
from axiom_client.service.base import NAME
from axiom_client.service.windows import (
    DESCRIPTION,
    DISPLAY_NAME,
    RESET_COUNT_SECONDS,
    RESTART_DELAYS_MS,
    Supervisor,
    agent_command,
    data_folder,
    should_restart,
    stop_command,
)

_NO_SUCH_SERVICE = 1060  # ERROR_SERVICE_DOES_NOT_EXIST
_NOT_ACTIVE = 1062  # ERROR_SERVICE_NOT_ACTIVE
_STOP_WAIT_SECONDS = 90  # longer than the agent may take to stop
_STATES = {
    win32service.SERVICE_RUNNING: "running",
    win32service.SERVICE_STOPPED: "stopped",
    win32service.SERVICE_START_PENDING: "starting",
    win32service.SERVICE_STOP_PENDING: "stopping",
}


class AxiomService(win32serviceutil.ServiceFramework):
    """The service process."""

    _svc_name_ = NAME
    _svc_display_name_ = DISPLAY_NAME
    _svc_description_ = DESCRIPTION

    def __init__(self, arguments: list[str]) -> None:
        super().__init__(arguments)
        self._stop = win32event.CreateEvent(None, True, False, None)

    def SvcStop(self) -> None:
        """Called by the service manager to stop the service."""
        self.ReportServiceStatus(win32service.SERVICE_STOP_PENDING)
        win32event.SetEvent(self._stop)

    def SvcShutdown(self) -> None:
        """Called when Windows shuts down: stop as well."""
        self.SvcStop()

    def SvcDoRun(self) -> None:
        """Run the agent until it ends or the service is stopped."""
        supervisor = Supervisor(
            command=agent_command(Path(sys.executable)),
            stop_command=stop_command(Path(sys.executable)),
            folder=data_folder(),
            wait_for_stop=self._wait_for_stop,
            log=servicemanager.LogInfoMsg,
        )
        code = supervisor.run()
        if should_restart(code):
            servicemanager.LogErrorMsg(f"{NAME} ended with code {code}; it will be started again")
            os._exit(code)  # not reporting "stopped", so that Windows restarts the service

    def _wait_for_stop(self, wait_ms: int) -> bool:
        answer = win32event.WaitForSingleObject(self._stop, wait_ms)
        return bool(answer == win32event.WAIT_OBJECT_0)


@contextmanager
def _as_os_error() -> Iterator[None]:
    """Turn pywin32's errors into OSError."""
    try:
        yield
    except win32service.error as error:
        raise OSError(error.winerror, error.strerror) from error


class Pywin32Manager:
    """The Windows service manager of this computer."""

    @_as_os_error()
    def create(self, name: str, display: str, description: str, command: str) -> None:
        """Register a service that starts with Windows, shortly after the other services."""
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

    @_as_os_error()
    def delete(self, name: str) -> None:
        """Stop and unregister a service."""
        self.stop(name)
        win32serviceutil.RemoveService(name)

    @_as_os_error()
    def query(self, name: str) -> str | None:
        """A service's state; None: there is no such service."""
        try:
            state = win32serviceutil.QueryServiceStatus(name)[1]
        except win32service.error as error:
            if error.winerror == _NO_SUCH_SERVICE:
                return None
            raise
        return _STATES.get(state, "paused")

    @_as_os_error()
    def start(self, name: str) -> None:
        """Start a service."""
        win32serviceutil.StartService(name)

    @_as_os_error()
    def stop(self, name: str) -> None:
        """Stop a service, if it runs, and wait until it has stopped."""
        try:
            win32serviceutil.StopService(name)
        except win32service.error as error:
            if error.winerror != _NOT_ACTIVE:
                raise
        win32serviceutil.WaitForServiceStatus(
            name, win32service.SERVICE_STOPPED, _STOP_WAIT_SECONDS
        )


def _end_agent_with_service() -> None:
    """Put this process into a job object that ends all its children when it ends in any way.

    Otherwise an agent that outlives its service would keep the folder locked for the next one.
    """
    job = windows_calls.create_job()  # its handle is never closed
    windows_calls.limit_job(job, END_WITH_HANDLE)
    windows_calls.assign(job, windows_calls.THIS_PROCESS)


def main() -> None:
    """Entry point for the service manager."""
    _end_agent_with_service()
    servicemanager.Initialize()
    servicemanager.PrepareToHostSingle(AxiomService)
    servicemanager.StartServiceCtrlDispatcher()  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
