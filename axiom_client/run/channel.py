"""The messages on the socket between the agent and a task's process.

The agent sends an ``Assignment`` as a line of JSON and then the script's text. The child sends
lines, each a letter and JSON: ``p`` progress, ``r`` the result, ``e`` why there is none. The agent
does not trust the child: it accepts only these lines, within the sizes given here. Never pickle.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import Struct

from axiom_client.sandbox.policy import Policy

CHANNEL_DESCRIPTOR = 3
PROGRESS_INTERVAL_SECONDS = 0.2  # between two progress lines of an honest child
#: A child may send this much progress at once, and then this much a second, which is twenty times
#: what an honest child sends.
PROGRESS_BYTES_FREE = 100_000
PROGRESS_BYTES_PER_SECOND = 1_000
#: The agent reads a child's channel this many times at once, then only so often a second: the
#: kernel collects meanwhile what a child sends byte by byte. The same for its output.
READS_FREE = 200
READS_PER_SECOND = 20
ERROR_BYTES_MAX = 64 * 1024

FailureKind = Literal[
    "error", "memory", "gpu_memory", "disk", "full_disk", "stopped", "sandbox", "result"
]


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
    landlock: bool = True  # False inside bubblewrap, whose namespaces confine the paths
    source_bytes: int


class Failure(Struct, frozen=True, kw_only=True):
    """Why a child has no result, as the child reports it."""

    kind: FailureKind
    message: str


def encode_assignment(assignment: Assignment, source: bytes) -> bytes:
    """The bytes that the agent sends."""
    return msgspec.json.encode(assignment) + b"\n" + source


def encode_failure(kind: FailureKind, message: str) -> bytes:
    """A line that says why there is no result; a long message is cut at its start."""
    failure = Failure(kind=kind, message=message[-ERROR_BYTES_MAX // 8 :])
    return b"e" + msgspec.json.encode(failure) + b"\n"


def encode_progress(fraction: float) -> bytes:
    """A line of progress."""
    return b"p%.6f\n" % fraction
