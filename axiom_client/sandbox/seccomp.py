"""The seccomp program of a policy: classic BPF, built once, completed with each child's own pid.

It is a binary search over system call numbers, with a block of comparisons for each conditional
call. What is not allowed fails with EPERM; a 32-bit or x32 call kills the process. Source:
linux/seccomp.h, linux/filter.h, seccomp(2).
"""

from __future__ import annotations

import ctypes
import errno
import platform
import struct
import sys

assert sys.platform == "linux"

from axiom_client.sandbox.errors import SandboxError
from axiom_client.sandbox.libc import call
from axiom_client.sandbox.policy import ABSENT, SELF, Condition, Policy, SyscallRule, syscall_rules
from axiom_client.sandbox.syscalls import ARCHITECTURES, FIRST_UNKNOWN

_LOAD, _AND, _RETURN = 0x20, 0x54, 0x06  # BPF_LD|W|ABS, BPF_ALU|AND|K, BPF_RET|K
_JUMP, _IF_EQUAL, _IF_AT_LEAST = 0x05, 0x15, 0x35  # BPF_JMP|JA, |JEQ|K, |JGE|K
_NUMBER_OFFSET, _ARCHITECTURE_OFFSET, _ARGUMENTS_OFFSET = 0, 4, 16  # struct seccomp_data
_ALLOW = 0x7FFF_0000
_KILL = 0x8000_0000
_REFUSE = 0x0005_0000 | errno.EPERM
_ABSENT = 0x0005_0000 | errno.ENOSYS
_X32_BIT = 0x4000_0000
_SECCOMP_SET_MODE_FILTER = 1
_SECCOMP_FILTER_FLAG_TSYNC = 1
_PLACEHOLDER_PID = -1

Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, constant
Template = tuple[bytes, ...]  # a program as bytes, cut where the process's own pid belongs


def build(policy: Policy, machine: str | None = None) -> list[Instruction]:
    """The program of ``policy``, with a placeholder for the process's own pid.

    Raises SandboxError on a processor without a system call table.
    """
    machine = machine or platform.machine()
    if machine not in ARCHITECTURES:
        raise SandboxError(f"no system call table for the processor {machine!r}")
    audit, table = ARCHITECTURES[machine]
    allowed, rules = syscall_rules(policy)
    actions: dict[int, int | SyscallRule] = {table[n]: _ABSENT for n in ABSENT if n in table}
    actions |= {table[name]: _ALLOW for name in allowed if name in table}
    actions |= {table[rule.name]: rule for rule in rules if rule.name in table}
    head: list[Instruction] = [
        (_LOAD, 0, 0, _ARCHITECTURE_OFFSET),
        (_IF_EQUAL, 1, 0, audit),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER_OFFSET),
        (_IF_AT_LEAST, 0, 1, _X32_BIT),
        (_RETURN, 0, 0, _KILL),
    ]
    return head + _search(_segments(actions))


def template(program: list[Instruction]) -> Template:
    """The program as an array of struct sock_filter, split where the pid is to be inserted."""
    pieces = [b""]
    for code, yes, no, value in program:
        pieces[-1] += struct.pack("=HBB", code, yes, no)
        if value == _PLACEHOLDER_PID:
            pieces.append(b"")
        else:
            pieces[-1] += struct.pack("=I", value)
    return tuple(pieces)


def pack(program: Template, pid: int) -> bytes:
    """The program for the process ``pid``."""
    return struct.pack("=I", pid).join(program)


def load(packed: bytes) -> None:
    """Confine the calling process by the program, irrevocably. NO_NEW_PRIVS must be set.

    Raises SandboxError if the kernel refuses it.
    """
    buffer = ctypes.create_string_buffer(packed, len(packed))
    fprog = struct.pack("@HP", len(packed) // 8, ctypes.addressof(buffer))
    call(
        "seccomp", _SECCOMP_SET_MODE_FILTER, _SECCOMP_FILTER_FLAG_TSYNC, fprog,
        doing="load the seccomp program",
    )  # fmt: skip


def _segments(actions: dict[int, int | SyscallRule]) -> list[tuple[int, int | SyscallRule]]:
    """(first number, action) for each run of equal actions, from 0 upward."""
    segments: list[tuple[int, int | SyscallRule]] = []
    for number in range(FIRST_UNKNOWN + 1):
        action = actions.get(number, _REFUSE if number < FIRST_UNKNOWN else _ABSENT)
        if not segments or segments[-1][1] != action or isinstance(action, SyscallRule):
            segments.append((number, action))
    return segments


def _search(segments: list[tuple[int, int | SyscallRule]]) -> list[Instruction]:
    if len(segments) == 1:
        action = segments[0][1]
        return [(_RETURN, 0, 0, action)] if isinstance(action, int) else _decide(action)
    middle = len(segments) // 2
    below, above = _search(segments[:middle]), _search(segments[middle:])
    return [
        (_IF_AT_LEAST, 0, 1, segments[middle][0]),
        (_JUMP, 0, 0, len(below)),
        *below,
        *above,
    ]


def _decide(rule: SyscallRule) -> list[Instruction]:
    """Test the alternatives in turn: each allows the call or falls through to the next."""
    program: list[Instruction] = []
    for alternative in rule.alternatives:
        tests = [test for condition in alternative for test in _comparisons(condition)]
        block: list[Instruction] = []
        left = sum(len(test) for test in tests) + 1  # instructions to the end of this alternative
        for test in tests:
            left -= len(test)
            code, yes, _, value = test[-1]
            block += [*test[:-1], (code, yes, left, value)]
        program += [*block, (_RETURN, 0, 0, _ALLOW)]
    return [*program, (_RETURN, 0, 0, _REFUSE)]


def _comparisons(condition: Condition) -> list[list[Instruction]]:
    """Load, mask and compare both halves of a 64-bit argument; ``_decide`` fills in the jumps."""
    tests: list[list[Instruction]] = []
    for half in (0, 1):  # both processors are little-endian
        mask = condition.mask >> (32 * half) & 0xFFFF_FFFF
        if not mask:
            continue
        if condition.value == SELF:
            value = 0 if half else _PLACEHOLDER_PID
        else:
            assert isinstance(condition.value, int)
            value = condition.value >> (32 * half) & 0xFFFF_FFFF
        offset = _ARGUMENTS_OFFSET + 8 * condition.argument + 4 * half
        test: list[Instruction] = [(_LOAD, 0, 0, offset)]
        if mask != 0xFFFF_FFFF:
            test.append((_AND, 0, 0, mask))
        tests.append([*test, (_IF_EQUAL, 0, 0, value)])
    return tests
