"""How a process ended on Windows, as the wait status that Linux would give. Pure.

Source: Microsoft's list of NTSTATUS values ([MS-ERREF] 2.3.1) and of system error codes.
"""

from __future__ import annotations

from axiom_client.run.judge import SIGKILL, SIGXCPU
from axiom_client.sandbox.windows_process import ENDED_BY_AGENT

_SIGABRT, _SIGILL, _SIGFPE, _SIGSEGV = 6, 4, 8, 11
_FIRST_ERROR_STATUS = 0xC000_0000
_SIGNALS = {
    ENDED_BY_AGENT: SIGKILL,
    1816: SIGXCPU,  # ERROR_NOT_ENOUGH_QUOTA: the job's limit of CPU time
    0xC000_0044: SIGXCPU,  # STATUS_QUOTA_EXCEEDED
    0xC000_0005: _SIGSEGV,  # STATUS_ACCESS_VIOLATION
    0xC000_00FD: _SIGSEGV,  # STATUS_STACK_OVERFLOW
    0xC000_001D: _SIGILL,  # STATUS_ILLEGAL_INSTRUCTION
    0xC000_0094: _SIGFPE,  # STATUS_INTEGER_DIVIDE_BY_ZERO
}


def wait_status(exit_code: int) -> int:
    """The status of wait4(2): the number of a signal, or an exit code times 256."""
    if exit_code in _SIGNALS:
        return _SIGNALS[exit_code]
    if exit_code >= _FIRST_ERROR_STATUS:
        return _SIGABRT
    return min(exit_code, 255) << 8
