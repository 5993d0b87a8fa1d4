"""Embedded clusters that are copied from one which initdb has made, once for each version of it.

initdb takes half a second of CPU and syncs the whole file system; the suite makes a hundred
projects. What initdb itself does, and its errors, are tested where nothing is copied, in
tests/store/test_embedded.py.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

from axiom_server.store import embedded
from axiom_server.store.embedded import EmbeddedPostgres

KEPT = Path(__file__).parents[2] / ".pytest_cache" / "clusters"


def copy_clusters() -> None:
    """Copy instead of making, from now on in this process and those forked from it."""
    make = EmbeddedPostgres._make_cluster

    def copy(self: EmbeddedPostgres) -> None:
        if not place_copy(self):
            make(self)
            _keep(self.data, _folder(self))

    EmbeddedPostgres._make_cluster = copy  # type: ignore[method-assign]


def place_copy(cluster: EmbeddedPostgres) -> bool:
    """Put a copy in place, unless none has been made yet; whether there was one."""
    made = _folder(cluster)
    if not made.exists():
        return False
    cluster.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    scratch = cluster.folder / "data.partial"
    shutil.rmtree(scratch, ignore_errors=True)
    subprocess.run(["cp", "-a", made, scratch], check=True)  # half the CPU of shutil.copytree
    os.rename(scratch, cluster.data)
    return True


def _folder(cluster: EmbeddedPostgres) -> Path:
    """Named by all that decides what initdb makes."""
    source = Path(embedded.__file__).read_bytes()
    named = hashlib.sha256(source + str(cluster.binaries).encode()).hexdigest()[:16]
    return KEPT / f"{named}-{os.geteuid()}"


def _keep(data: Path, made: Path) -> None:
    if data.stat().st_uid != os.geteuid():
        return  # a copy would be ours, and PostgreSQL runs as another user here
    KEPT.mkdir(parents=True, exist_ok=True)
    with (KEPT / "lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            partial = made.with_suffix(".partial")
            shutil.rmtree(partial, ignore_errors=True)
            shutil.copytree(data, partial, symlinks=True)
            os.rename(partial, made)
