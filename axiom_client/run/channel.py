"""The messages on the socket between the agent and a task's process.

The agent sends an ``Assignment`` as a line of JSON and then the script's text. The child sends
lines, each a letter and JSON: ``p`` progress, ``r`` the result, ``e`` why there is none. The agent
does not trust the child: it accepts only these lines, within the sizes given here. Never pickle.
In a cohort, the number of a member and a colon follow the letter: ``p3:0.5``, ``r0:{...}``. A
failure without a number is one of the whole process.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import Struct

from axiom_client.decide.task_run import Member
from axiom_client.sandbox.policy import Policy

CHANNEL_DESCRIPTOR = 3
PROGRESS_INTERVAL_SECONDS = 0.2  # between two progress lines of a correct child
COHORT_PROGRESS_INTERVAL_SECONDS = 2.0  # the same for each member of a cohort
#: A child may send this much progress at once and then this much a second: twenty times as much
#: as a correct child sends.
PROGRESS_BYTES_FREE = 100_000
PROGRESS_BYTES_PER_SECOND = 1_000
#: The agent reads a child's channel this many times at once, and then only this many times a
#: second; the kernel buffers what arrives in between. The same holds for a child's output.
READS_FREE = 200
READS_PER_SECOND = 20
READ_BYTES = 64 * 1024  # read at once
ERROR_BYTES_MAX = 64 * 1024

FailureKind = Literal[
    "error", "memory", "gpu_memory", "disk", "full_disk", "stopped", "sandbox", "result"
]


class ChildEnds(Struct, frozen=True):
    """A child's ends of its channel and its output: descriptors, or handles on Windows.

    ``assignment`` is where it reads; one socket serves both directions on Linux and macOS.
    """

    assignment: int
    channel: int
    output: int


class Assignment(Struct, frozen=True, kw_only=True):
    """All that a child needs to run its task. ``source_bytes`` of UTF-8 follow the line."""

    experiment: str
    environment: str
    parameters: dict[str, Any]
    seed: int
    budget_seconds: float
    device: str
    result_bytes: int
    policy: Policy
    others: list[Member] = []  # the further tasks of a cohort
    landlock: bool = True  # False inside bubblewrap, whose namespaces confine the paths
    source_bytes: int


class Failure(Struct, frozen=True, kw_only=True):
    """Why a child has no result, as the child reports it."""

    kind: FailureKind
    message: str


def encode_assignment(assignment: Assignment, source: bytes) -> bytes:
    """The bytes that the agent sends."""
    return msgspec.json.encode(assignment) + b"\n" + source


def encode_failure(kind: FailureKind, message: str, member: int | None = None) -> bytes:
    """A line that says why there is no result; a long message is cut at its start."""
    failure = Failure(kind=kind, message=message[-ERROR_BYTES_MAX // 8 :])
    return b"e" + _number(member) + msgspec.json.encode(failure) + b"\n"


def encode_result(encoded: bytes, member: int | None = None) -> bytes:
    """A line with a result that is JSON already."""
    return b"r" + _number(member) + encoded + b"\n"


def encode_progress(fraction: float, member: int | None = None) -> bytes:
    """A line of progress."""
    return b"p" + _number(member) + b"%.6f\n" % fraction


def _number(member: int | None) -> bytes:
    return b"" if member is None else b"%d:" % member


def split_member(line: bytes, members: int) -> tuple[int | None, bytes]:
    """The number of a cohort's member (None if the line has none), and the line without it."""
    number, colon, rest = line[1:].partition(b":")
    if not colon or not number.isdigit() or len(number) > 4 or int(number) >= members:
        return None, line
    return int(number), line[:1] + rest
