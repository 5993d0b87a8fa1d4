"""What a task's folder holds, and how much it may hold."""

from __future__ import annotations

from msgspec import Struct

FILES_MAX = 10_000  # a task may not have more files, whatever their size
DEPTH_MAX = 32  # nested folders; each takes a descriptor while they are counted
SLACK_BYTES = 128 * 1024  # not counted: folders and partly filled blocks
BLOCK_BYTES = 512  # st_blocks counts in these on every file system


class FolderUsage(Struct):
    """What was counted. ``problem`` says why the count is not complete; empty if it is."""

    size_bytes: int = 0
    files: int = 0
    problem: str = ""
