"""Measures and deletes a task's folder, in whatever state the task has left it."""

from __future__ import annotations

import logging
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path

from axiom_client.run.folder_usage import BLOCK_BYTES as BLOCK_BYTES
from axiom_client.run.folder_usage import DEPTH_MAX as DEPTH_MAX
from axiom_client.run.folder_usage import FILES_MAX as FILES_MAX
from axiom_client.run.folder_usage import SLACK_BYTES as SLACK_BYTES
from axiom_client.run.folder_usage import FolderUsage as FolderUsage

if sys.platform == "win32":
    from axiom_client.run import windows_folder as system_folder
    from axiom_client.run.windows_folder import measure as measure
else:
    from axiom_client.run import posix_folder as system_folder
    from axiom_client.run.posix_folder import measure as measure

log = logging.getLogger("axiom_client")


def remove(folder: Path) -> None:
    """Delete the folder, or the file at its path, at once. See ``removal``."""
    for _ in removal(folder):
        pass


def set_aside(folder: Path) -> Path:
    """Rename a folder that is to be deleted, so that its name can be used again; the new path."""
    renamed = folder.with_name(f"removed-{secrets.token_hex(8)}")
    try:
        folder.rename(renamed)
    except FileNotFoundError:
        return renamed
    except OSError as error:
        log.warning("%s cannot be renamed: %s", folder, error)
        return folder
    return renamed


def removal(folder: Path) -> Iterator[None]:
    """Delete the folder, or the file at its path, one small step per iteration.

    What cannot be deleted is logged; the agent tries again at its next start.
    """
    try:
        yield from system_folder.removal(folder)
    except FileNotFoundError:
        return
    except OSError as error:
        log.warning("%s cannot be deleted (%s); it is tried again at the next start", folder, error)
