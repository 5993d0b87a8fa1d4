"""`axiom-server backup` and `restore`: one file with everything that a project cannot make again.

The archive (tar, gzip) holds database.dump (pg_dump's custom format, one consistent snapshot, taken
while the server runs), project.toml and the bundles. Keys go in only when asked: a backup is copied
to places where the targets key must not be.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import BinaryIO

from axiom_server.errors import DatabaseUnreachable, DiskFull, FileUnreadable
from axiom_server.project_folder import Folder
from axiom_server.store.embedded import find_binaries

DUMP = "database.dump"
PARTS = ("project.toml", "bundles")


def backup(folder: Folder, target: Path, with_keys: bool) -> int:
    """Write the archive; returns its size in bytes. An existing file is not overwritten."""
    if target.exists():
        raise FileUnreadable(f"{target} exists already; give another name")
    partial = target.with_name(target.name + ".partial")
    try:
        with folder.database() as conninfo, tempfile.TemporaryDirectory(dir=target.parent) as tmp:
            dump = Path(tmp) / DUMP
            _tool(folder, "pg_dump", "--format=custom", f"--file={dump}", f"--dbname={conninfo}")
            with (
                _private_file(partial) as file,
                tarfile.open(fileobj=file, mode="w:gz", compresslevel=1) as archive,
            ):
                archive.add(dump, DUMP)
                for part in (*PARTS, *(("keys",) if with_keys else ())):
                    archive.add(folder.path / part, part)
        os.replace(partial, target)
    except OSError as error:
        partial.unlink(missing_ok=True)
        if error.errno == errno.ENOSPC:
            raise DiskFull(f"no space left for the backup {target}") from None
        raise FileUnreadable(f"cannot write {target}: {error.strerror}") from None
    return target.stat().st_size


def _private_file(path: Path) -> BinaryIO:
    """A new file that nobody else could ever read, not even while it is written."""
    path.unlink(missing_ok=True)  # of a backup that was cut short; a link goes, not its target
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")


def restore(source: Path, path: Path) -> Folder:
    """Make a project in ``path``, a new folder, from an archive."""
    if (path / "project.toml").exists():
        raise FileUnreadable(f"{path} holds a project already; restore into a new folder")
    path.mkdir(parents=True, exist_ok=True)
    folder = Folder(path.resolve())
    try:
        with tempfile.TemporaryDirectory(dir=path) as name:
            tmp = Path(name)
            with tarfile.open(source) as archive:
                _unpack(archive, tmp)
            with folder.database(schema=False) as conninfo:
                _tool(folder, "pg_restore", "--exit-on-error", "--no-owner", "--single-transaction",
                      f"--dbname={conninfo}", str(tmp / DUMP))  # fmt: skip
            for part in ("bundles", "keys"):
                if (tmp / part).exists():
                    shutil.move(tmp / part, path / part)
            os.replace(tmp / "project.toml", path / "project.toml")  # last: it is whole now
    except (tarfile.TarError, EOFError) as error:
        raise FileUnreadable(f"{source} is no backup of axiom-server: {error}") from None
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise DiskFull(f"no space left for a project in {path}") from None
        where = error.filename or source
        raise FileUnreadable(f"cannot restore {source}: {error.strerror}: {where}") from None
    return folder


def _unpack(archive: tarfile.TarFile, folder: Path) -> None:
    """Files and folders below ``folder``, nothing else (tarfile's own filter came with 3.11.4)."""
    for member in archive:
        target = folder / member.name
        inside = target.resolve().is_relative_to(folder.resolve())
        content = archive.extractfile(member) if member.isreg() else None
        if not inside or (content is None and not member.isdir()):
            raise FileUnreadable(f"the backup holds {member.name!r}, which no backup of ours does")
        if content is None:
            _private_folder(target, folder)
            continue
        _private_folder(target.parent, folder)
        with content, _private_file(target) as file:
            shutil.copyfileobj(content, file)
        target.chmod(member.mode & 0o700)


def _private_folder(path: Path, above: Path) -> None:
    """Make ``path`` and what lies between it and ``above``; the keys are among them."""
    for folder in (*reversed(path.relative_to(above).parents), path.relative_to(above)):
        (above / folder).mkdir(mode=0o700, exist_ok=True)


def _tool(folder: Folder, program: str, *words: str) -> None:
    """Run one of PostgreSQL's own tools, of the embedded server's version."""
    binaries = find_binaries(folder.path / "postgres" / "data")
    done = subprocess.run(
        [str(binaries / program), *words], capture_output=True, text=True, check=False
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        if any("No space left" in line for line in lines):
            raise OSError(errno.ENOSPC, "No space left on device")
        raise DatabaseUnreachable(f"{program} failed: {lines[-1] if lines else 'no message'}")
