"""Builds a signed apt repository: python packaging/apt_repository.py FOLDER KEY DEB [DEB ...]

KEY names a secret key of gpg's keyring. FOLDER can be served by any web server, or used as
``file:``. It gets

    pool/main/*.deb
    dists/stable/{Release,Release.gpg,InRelease}
    dists/stable/main/binary-ARCHITECTURE/{Packages,Packages.gz,by-hash/SHA256/...}
    axiom-archive-keyring.gpg   the public key, for /usr/share/keyrings
    axiom.sources               for /etc/apt/sources.list.d

A second call with more packages adds them. dpkg-scanpackages (Debian's dpkg-dev) reads the
packages; by-hash files let a client that reads during a change find what its Release names.
"""

from __future__ import annotations

import gzip
import hashlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path

SUITE = "stable"
ARCHITECTURES = ("amd64", "arm64")
ADDRESS = "https://axiom.example/apt"
KEYRING = "axiom-archive-keyring.gpg"


def main(folder: Path, key: str, packages: list[Path]) -> None:
    if not packages:
        raise SystemExit("give the packages: apt_repository.py FOLDER KEY DEB [DEB ...]")
    pool = folder / "pool" / "main"
    pool.mkdir(parents=True, exist_ok=True)
    for package in packages:
        add(package, pool)
    dists = folder / "dists" / SUITE
    for architecture in ARCHITECTURES:
        write_index(folder, dists / "main" / f"binary-{architecture}", architecture)
    sign(dists, key)
    (folder / KEYRING).write_bytes(run("gpg", "--export", key))
    (folder / "axiom.sources").write_text(sources(ADDRESS, f"/usr/share/keyrings/{KEYRING}"))
    print(f"{folder}: {len(list(pool.glob('*.deb')))} packages")


def add(package: Path, pool: Path) -> None:
    """Copy a package into the pool. One that is there never changes."""
    target = pool / package.name
    if target.exists() and target.read_bytes() != package.read_bytes():
        raise SystemExit(f"{target} is published with other contents; raise the version")
    shutil.copy(package, target)


def sources(address: str, keyring: str) -> str:
    """The file with which a host uses the repository. Only this key may sign for it."""
    return (
        f"Types: deb\nURIs: {address}\nSuites: {SUITE}\nComponents: main\n"
        f"Architectures: {' '.join(ARCHITECTURES)}\nSigned-By: {keyring}\n"
    )


def write_index(folder: Path, target: Path, architecture: str) -> None:
    """Write the index of the packages of one architecture."""
    line = ["dpkg-scanpackages", "--multiversion", "--arch", architecture, "pool"]
    text = run(*line, folder=folder)
    target.mkdir(parents=True, exist_ok=True)
    for name, data in (("Packages", text), ("Packages.gz", gzip.compress(text, mtime=0))):
        (target / name).write_bytes(data)
        by_hash = target / "by-hash" / "SHA256"
        by_hash.mkdir(parents=True, exist_ok=True)
        (by_hash / hashlib.sha256(data).hexdigest()).write_bytes(data)


def sign(dists: Path, key: str) -> None:
    """Write the Release file and sign it, both apart and inline."""
    release = dists / "Release"
    release.write_text("\n".join(release_lines(dists)) + "\n")
    gpg = ["gpg", "--batch", "--yes", "--local-user", key, "--digest-algo", "SHA512"]
    run(*gpg, "--armor", "--detach-sign", "--output", f"{release}.gpg", str(release))
    run(*gpg, "--clearsign", "--output", str(dists / "InRelease"), str(release))


def release_lines(dists: Path) -> Iterator[str]:
    """The Release file: what the suite is, and the indexes' sizes and hashes."""
    yield "Origin: Axiom"
    yield "Label: Axiom"
    yield f"Suite: {SUITE}"
    yield f"Codename: {SUITE}"
    yield f"Date: {format_datetime(datetime.now(UTC), usegmt=True)}"
    yield f"Architectures: {' '.join(ARCHITECTURES)}"
    yield "Components: main"
    yield "Description: Volunteer computing for the science of neural networks"
    yield "Acquire-By-Hash: yes"
    yield "SHA256:"
    for path in sorted(dists.glob("main/binary-*/Packages*")):
        data = path.read_bytes()
        name = path.relative_to(dists).as_posix()
        yield f" {hashlib.sha256(data).hexdigest()} {len(data):>12} {name}"


def run(*words: str, folder: Path | None = None) -> bytes:
    """The output of a program. Exits with its message where it fails."""
    done = subprocess.run(words, cwd=folder, capture_output=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{words[0]} failed: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout


if __name__ == "__main__":
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]), sys.argv[2], [Path(word) for word in sys.argv[3:]])
