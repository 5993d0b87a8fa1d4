"""The error of every sandbox."""

from __future__ import annotations


class SandboxError(Exception):
    """This process could not be confined; the message says which step failed. No task may run."""
