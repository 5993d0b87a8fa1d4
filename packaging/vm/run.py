"""One run on a virtual machine: prepare it, start it, make every check, and clean up."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from checks import Checks
from volunteer import Volunteer

#: A claim, and the function that raises when it does not hold.
Step = tuple[str, Callable[[Volunteer], object]]


def run(
    prepare: Callable[[Path, Namespace], Volunteer], steps: Sequence[Step], options: Namespace
) -> int:
    """Try the steps in order on a prepared machine; returns the exit code.

    prepare  makes the guest and the project in a new folder, and starts neither
    """
    checks = Checks(options.json)
    with tempfile.TemporaryDirectory(prefix="axiom-vm-") as name:
        folder = Path(name)
        volunteer = prepare(folder, options)
        try:
            volunteer.project.serve()
            volunteer.guest.start()
            for claim, step in steps:
                checks.check(claim, partial(step, volunteer))
        finally:
            volunteer.guest.stop()
            volunteer.project.stop()
            _keep_logs(folder, options.json)
    return checks.summary()


def build_package(root: Path, architecture: str) -> Path:
    """Build the deb of a source tree for an architecture, in the tree's folder ``dist``."""
    print(f"== building the package of {root} for {architecture}", flush=True)
    line = [sys.executable, "packaging/build_packages.py", "dist", architecture]
    environment = {**os.environ, "PYTHONPATH": str(root)}  # the tree's own version and texts
    subprocess.run(line, cwd=root, env=environment, check=True, stdout=subprocess.DEVNULL)
    built = (root / "dist").glob(f"axiom-client_*_{architecture}.deb")
    return max(built, key=lambda path: path.stat().st_mtime)


def _keep_logs(folder: Path, record: Path | None) -> None:
    """Copy the guest's console and the server's log beside the record."""
    for name in ("console.log", "server.log") if record is not None else ():
        if record is not None and (folder / name).exists():
            shutil.copyfile(folder / name, record.with_name(f"{record.stem}-{name}"))
