"""Builds everything that is released: python packaging/release.py [FOLDER]

These are wheel, sdist, deb, rpm, standalone archives, manifests of winget and Homebrew, pins with
hashes, bills of materials and checksums. Two builds of one commit give byte-identical wheels and
sdists, because their timestamps are the commit's.

Afterwards a person signs SHA256SUMS (ssh-keygen -Y sign -n axiom -f KEY SHA256SUMS), tags the
commit and publishes the files.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from axiom_protocol import __version__

ROOT = Path(__file__).parents[1]
PROGRAMS = Path(sys.executable).parent
SUMS = "SHA256SUMS"
RELEASES = "https://axiom.example/releases"  # below which the files are published


def main(folder: Path) -> None:
    check_tree()
    os.environ.setdefault("SOURCE_DATE_EPOCH", output("git", "log", "-1", "--format=%ct"))
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    run(sys.executable, "-P", "-m", "build", "--outdir", folder, ROOT)
    for wheel in folder.glob("*.whl"):
        run(PROGRAMS / "check-wheel-contents", "--toplevel",
            "axiom_protocol,axiom_client,axiom_server", wheel)  # fmt: skip
    run(sys.executable, ROOT / "packaging/build_packages.py", folder)
    run(sys.executable, ROOT / "packaging/standalone.py", folder)
    run(sys.executable, ROOT / "packaging/manifests.py", folder, f"{RELEASES}/{__version__}")
    for pins in sorted((ROOT / "packaging/pins").glob("*.txt")):
        shutil.copy(pins, folder / f"axiom-{__version__}-{pins.stem}.pins.txt")
        bill_of_materials(pins, folder / f"axiom-{__version__}-{pins.stem}.cdx.json")
    write_sums(folder)
    print((folder / SUMS).read_text(), end="")


def check_tree() -> None:
    """Exit if there are uncommitted changes, or the changelog has no section for this version."""
    if output("git", "status", "--porcelain"):
        sys.exit("the checkout has uncommitted changes; commit them first")
    changelog = (ROOT / "CHANGELOG.md").read_text()
    if not re.search(rf"(?m)^## \[{re.escape(__version__)}\]", changelog):
        sys.exit(f"CHANGELOG.md has no section [{__version__}]; write it")


def bill_of_materials(pins: Path, target: Path) -> None:
    """Write a CycloneDX file from the pins: what an installation with hashes contains."""
    run(PROGRAMS / "cyclonedx-py", "requirements", "--pyproject", ROOT / "pyproject.toml",
        "--output-reproducible", "--output-file", target, pins)  # fmt: skip


def write_sums(folder: Path) -> None:
    """Write the checksums of all files in the form that ``sha256sum --check`` reads."""
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n"
        for path in sorted(folder.iterdir())
        if path.is_file() and path.name != SUMS
    ]
    (folder / SUMS).write_text("".join(lines))


def run(*words: str | Path) -> None:
    subprocess.run([str(word) for word in words], cwd=ROOT, check=True)


def output(*words: str) -> str:
    done = subprocess.run(words, cwd=ROOT, check=True, capture_output=True, text=True)
    return done.stdout.strip()


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "dist").absolute())
