"""One run on a virtual machine: prepare it, start it, make every check, and clean up."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from checks import Checks
from volunteer import Volunteer

#: A claim, and the function that raises when it does not hold.
Step = tuple[str, Callable[[Volunteer], object]]


def add_options(parser: ArgumentParser) -> None:
    """The options that `run` reads."""
    parser.add_argument("--json", type=Path, help="also write the checks to this file")
    parser.add_argument(
        "--folder", type=Path,
        help="keep the machine and the project here, and go on with those of an earlier run",
    )  # fmt: skip
    parser.add_argument("--from", dest="first", default="", help="begin with this function's check")
    parser.add_argument("--only", default="", help="make this function's check and no other")


def run(
    prepare: Callable[[Path, Namespace], Volunteer], steps: Sequence[Step], options: Namespace
) -> int:
    """Try the steps in order on a prepared machine; returns the exit code.

    prepare  makes in a folder what it lacks of a guest and a project, and starts neither
    """
    checks, chosen = Checks(options.json), _chosen(steps, options)
    with _folder(options.folder) as folder:
        volunteer = prepare(folder, options)
        try:
            volunteer.project.serve()
            volunteer.guest.start()
            for claim, step in chosen:
                checks.check(claim, partial(step, volunteer))
        finally:
            if options.folder is None:  # nobody needs its disk any more
                volunteer.guest.cut_power()
            else:
                volunteer.guest.stop()
            volunteer.project.stop()
            _keep_logs(folder, options.json)
    return checks.summary()


def _chosen(steps: Sequence[Step], options: Namespace) -> Sequence[Step]:
    """The steps that the options name, by the name of their function."""
    names = [getattr(step, "__name__", claim) for claim, step in steps]
    wanted = options.only or options.first
    if not wanted:
        return steps
    if wanted not in names:
        raise SystemExit(f"no check {wanted!r}; give one of {', '.join(names)}")
    begin = names.index(wanted)
    return steps[begin : begin + 1] if options.only else steps[begin:]


@contextmanager
def _folder(kept: Path | None) -> Iterator[Path]:
    """The folder of the run: the kept one, or a temporary one."""
    if kept is None:
        with tempfile.TemporaryDirectory(prefix="axiom-vm-") as name:
            yield Path(name)
    else:
        kept.mkdir(parents=True, exist_ok=True)
        yield kept.resolve()


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
