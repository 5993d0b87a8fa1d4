"""Small disks that can be full: a tmpfs in a mount namespace that ends with this process."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

VARIABLE = "CHAOS_MOUNTS"  # set in a process that may mount
BALLAST = "ballast"
CHUNK = b"\0" * 65536


def enter_namespace(words: list[str]) -> None:
    """Enter a namespace in which this process may mount, if allowed; else continue without."""
    if VARIABLE in os.environ or os.geteuid() != 0 or shutil.which("unshare") is None:
        return
    line = ["unshare", "--mount", "--propagation", "private"]
    if subprocess.run([*line, "true"], capture_output=True, check=False).returncode:
        return
    os.environ[VARIABLE] = "1"
    os.execvp("unshare", [*line, sys.executable, "-m", "tests.chaos", *words])


def may_mount() -> bool:
    """Whether small disks can be mounted."""
    return VARIABLE in os.environ


def mount(folder: Path, size: str) -> None:
    """Mount a new, empty disk on a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    if may_mount():
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)
        folder.chmod(0o755)


def fill(folder: Path) -> None:
    """Fill the disk completely."""
    with (folder / BALLAST).open("ab", buffering=0) as file:
        with suppress(OSError):  # another program takes some of it at the same time
            free = os.statvfs(folder)
            os.posix_fallocate(file.fileno(), 0, file.tell() + free.f_bavail * free.f_frsize)
        file.seek(0, os.SEEK_END)
        for chunk in (CHUNK, b"\0" * 512, b"\0"):
            try:
                while True:
                    file.write(chunk)
            except OSError:
                continue


def free(folder: Path) -> None:
    """Free the space again."""
    (folder / BALLAST).unlink(missing_ok=True)


def make_read_only(file: Path) -> None:
    """Nobody may write the file from now on: root too, which ignores its mode."""
    subprocess.run(["mount", "--bind", file, file], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", file], check=True)


def make_writable(file: Path) -> None:
    """Undo ``make_read_only``."""
    subprocess.run(["umount", file], check=True)
