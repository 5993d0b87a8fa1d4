"""`axiom-server backup` and `restore`: one file with everything that belongs to a project.

The archive (tar, gzip) holds database.dump (pg_dump's custom format, one consistent snapshot, taken
while the server runs), project.toml and the bundles. Keys are included only on request, because
backups are copied to places where the targets key must not be.
"""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from axiom_protocol.durable_file import PRIVATE, finish, new_file, sync_disks
from axiom_server.errors import DatabaseUnreachable, DiskFull, FileUnreadable
from axiom_server.project_folder import ProjectFolder
from axiom_server.store import epochs
from axiom_server.store.database import Connection, connect, drop_tables, has_tables
from axiom_server.store.embedded import find_binaries

T = TypeVar("T")

DUMP = "database.dump"
PARTS = ("project.toml", "bundles")
UNPACKED = "restore-"  # prefix of the folder into which a restore unpacks the archive
UNFINISHED = "restore.unfinished"  # a file that exists while the database is one of a restore


def backup(folder: ProjectFolder, target: Path, with_keys: bool) -> int:
    """Write the archive; returns its size in bytes. An existing file is not overwritten."""
    if target.exists():
        raise FileUnreadable(f"{target} exists already; give another name")
    partial = target.with_name(target.name + ".partial")
    try:
        with folder.database() as conninfo, tempfile.TemporaryDirectory(dir=target.parent) as tmp:
            number = _run_transaction(conninfo, epochs.begin_backup)
            dump = Path(tmp) / DUMP
            _tool(folder, "pg_dump", "--format=custom", f"--file={dump}", f"--dbname={conninfo}")
            partial.unlink(missing_ok=True)  # left by an interrupted backup
            with new_file(partial, PRIVATE) as file:
                with tarfile.open(fileobj=file, mode="w:gz", compresslevel=1) as archive:
                    archive.add(dump, DUMP)
                    for part in (*PARTS, *(("keys",) if with_keys else ())):
                        archive.add(folder.path / part, part)
                finish(file, target)
            _run_transaction(conninfo, lambda connection: epochs.finish_backup(connection, number))
    except OSError as error:
        partial.unlink(missing_ok=True)
        if error.errno == errno.ENOSPC:
            raise DiskFull(f"no space left for the backup {target}") from None
        raise FileUnreadable(f"cannot write {target}: {error.strerror}") from None
    return target.stat().st_size


def _run_transaction(conninfo: str, work: Callable[[Connection], Awaitable[T]]) -> T:
    """Run ``work`` in one transaction, and return its value."""

    async def run() -> T:
        async with connect(conninfo) as connection:
            return await work(connection)

    return asyncio.run(run())


def begin_epoch(folder: ProjectFolder) -> None:
    """Begin a new epoch after a restore, so that no number of a task since the backup is reused.

    Neither is a version of the signed targets. Nobody is signed in on the pages any more.
    """
    with folder.database() as conninfo:
        _run_transaction(conninfo, epochs.begin)
    folder.bundles.metadata.leave_versions_free()


def restore(source: Path, path: Path) -> ProjectFolder:
    """Create a project from an archive, in the new folder ``path``.

    One that was interrupted can be repeated with the same folder.
    """
    if (path / "project.toml").exists():
        raise FileUnreadable(f"{path} holds a project already; restore into a new folder")
    path.mkdir(parents=True, exist_ok=True)
    folder = ProjectFolder(path.resolve())
    for left in path.glob(f"{UNPACKED}*"):
        shutil.rmtree(left, ignore_errors=True)
    try:
        with tempfile.TemporaryDirectory(dir=path, prefix=UNPACKED) as name:
            tmp = Path(name)
            with tarfile.open(source) as archive:
                _unpack(archive, tmp)
            _restore_database(folder, tmp / DUMP)
            for part in ("bundles", "keys"):
                if (tmp / part).exists():
                    shutil.rmtree(path / part, ignore_errors=True)
                    shutil.move(tmp / part, path / part)
            begin_epoch(folder)
            sync_disks()
            # Moved last: a folder with this file is complete.
            os.replace(tmp / "project.toml", path / "project.toml")
            (path / UNFINISHED).unlink(missing_ok=True)
    except (tarfile.TarError, EOFError):
        raise FileUnreadable(f"{source} is not a backup of axiom-server, or is cut short") from None
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise DiskFull(f"no space left for a project in {path}") from None
        where = error.filename or source
        raise FileUnreadable(f"cannot restore {source}: {error.strerror}: {where}") from None
    return folder


def _restore_database(folder: ProjectFolder, dump: Path) -> None:
    """Fill the database, which must be empty unless this restore was interrupted before."""
    unfinished = folder.path / UNFINISHED
    with folder.database(schema=False) as conninfo:
        if unfinished.exists():
            _run_transaction(conninfo, drop_tables)
        elif _run_transaction(conninfo, has_tables):
            raise FileUnreadable(
                "the database holds tables already; restore into an empty one, and a new folder"
            )
        unfinished.touch()
        _tool(folder, "pg_restore", "--exit-on-error", "--no-owner", "--single-transaction",
              f"--dbname={conninfo}", str(dump))  # fmt: skip


def _unpack(archive: tarfile.TarFile, folder: Path) -> None:
    """Extract only files and folders below ``folder`` (tarfile's own filter needs 3.11.4)."""
    for member in archive:
        target = folder / member.name
        inside = target.resolve().is_relative_to(folder.resolve())
        content = archive.extractfile(member) if member.isreg() else None
        if not inside or (content is None and not member.isdir()):
            raise FileUnreadable(
                f"the backup holds {member.name!r}, which axiom-server never writes"
            )
        if content is None:
            _private_folder(target, folder)
            continue
        _private_folder(target.parent, folder)
        with content, new_file(target, PRIVATE) as file:
            shutil.copyfileobj(content, file)
        target.chmod(member.mode & 0o700)


def _private_folder(path: Path, above: Path) -> None:
    """Create ``path`` and the folders between it and ``above``, readable only by their owner."""
    for folder in (*reversed(path.relative_to(above).parents), path.relative_to(above)):
        (above / folder).mkdir(mode=0o700, exist_ok=True)


def _tool(folder: ProjectFolder, program: str, *words: str) -> None:
    """Run a PostgreSQL tool of the embedded server's version."""
    binaries = find_binaries(folder.path / "postgres" / "data")
    done = subprocess.run(
        [str(binaries / program), *words], capture_output=True, text=True, check=False
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        if any("No space left" in line for line in lines):
            raise OSError(errno.ENOSPC, "No space left on device")
        raise DatabaseUnreachable(f"{program} failed: {lines[-1] if lines else 'no message'}")
