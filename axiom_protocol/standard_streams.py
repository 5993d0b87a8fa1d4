"""Prepares standard output and standard error of a program that may run for months."""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Buffer


def prepare_standard_streams() -> None:
    """Let characters that a terminal lacks be replaced, and errors be lost that cannot be written.

    Otherwise a log on a full disk would end a program, or a task within it, whose only fault was
    to report another fault; and an exit code that tells the service manager not to restart would
    be lost with the message before it.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    if isinstance(sys.stderr, io.TextIOWrapper) and not sys.stderr.isatty():
        sys.stderr = _lossy(sys.stderr)


def _lossy(stream: io.TextIOWrapper) -> io.TextIOWrapper:
    """A stream to the same file, whose writes do not fail."""
    file = io.BufferedWriter(_LossyFile(stream.fileno(), "wb", closefd=False))
    return io.TextIOWrapper(
        file, encoding=stream.encoding, errors=stream.errors, line_buffering=True
    )


class _LossyFile(io.FileIO):
    """A file in which what cannot be written is lost."""

    def write(self, data: Buffer, /) -> int:
        try:
            return super().write(data) or 0
        except OSError:
            return memoryview(data).nbytes
