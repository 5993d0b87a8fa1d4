"""The apt repository, read by the real apt-get in folders of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = ("gpg", "apt-get", "apt-cache", "dpkg-deb", "dpkg-scanpackages")
MISSING = [tool for tool in TOOLS if shutil.which(tool) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"needs Debian's {', '.join(MISSING)}")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with gpg's keyring; its agent is ended afterwards."""
    folder = tmp_path_factory.mktemp("apt")
    (folder / "gnupg").mkdir(mode=0o700)
    for name in ("axiom", "stranger"):
        run(folder, "gpg", "--batch", "--passphrase", "", "--quick-generate-key", name, "ed25519")
    yield folder
    run(folder, "gpgconf", "--kill", "all")


def run(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "GNUPGHOME": str(home / "gnupg"), "LC_ALL": "C.UTF-8"}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def package(folder: Path, version: str) -> Path:
    """A deb without files."""
    tree = folder / f"tree-{version}"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN" / "control").write_text(
        f"Package: axiom-client\nVersion: {version}\nArchitecture: amd64\n"
        "Maintainer: The Axiom developers <packages@axiom.example>\nDescription: a test\n"
    )
    target = folder / f"axiom-client_{version}_amd64.deb"
    run(folder, "dpkg-deb", "--root-owner-group", "--build", str(tree), str(target))
    return target


class Host:
    """A host that uses the repository by a file: address, with apt's folders below ``folder``."""

    def __init__(self, folder: Path, repository: Path) -> None:
        self.folder = folder
        for name in ("state/lists/partial", "cache/archives/partial", "etc/trusted.gpg.d"):
            (folder / name).mkdir(parents=True)
        (folder / "state" / "status").touch()
        shutil.copy(repository / "axiom-archive-keyring.gpg", folder / "keyring.gpg")
        sources = (repository / "axiom.sources").read_text()
        sources = sources.replace("https://axiom.example/apt", f"file:{repository}")
        sources = sources.replace(
            "/usr/share/keyrings/axiom-archive-keyring.gpg", str(folder / "keyring.gpg")
        )
        (folder / "etc" / "axiom.sources").write_text(sources)

    def apt(self, program: str, *words: str) -> subprocess.CompletedProcess[str]:
        options = {
            "Dir::State": self.folder / "state",
            "Dir::State::status": self.folder / "state" / "status",
            "Dir::Cache": self.folder / "cache",
            "Dir::Etc::sourcelist": self.folder / "etc" / "axiom.sources",
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::Etc::trustedparts": self.folder / "etc" / "trusted.gpg.d",
            "APT::Architecture": "amd64",
            "APT::Architectures::": "amd64",
            "APT::Sandbox::User": "root",
            "Acquire::Languages": "none",
            "APT::Update::Error-Mode": "any",
        }
        line = [program, *(f"-o{key}={value}" for key, value in options.items()), *words]
        return subprocess.run(
            line, cwd=self.folder, env={**os.environ, "LC_ALL": "C.UTF-8"}, capture_output=True,
            text=True, check=False,
        )  # fmt: skip

    def update(self) -> subprocess.CompletedProcess[str]:
        return self.apt("apt-get", "update")


def publish(home: Path, repository: Path, *packages: Path, key: str = "axiom") -> None:
    script = str(ROOT / "packaging" / "apt_repository.py")
    run(home, sys.executable, script, str(repository), key, *map(str, packages))


@pytest.fixture
def repository(home: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    publish(home, folder, package(tmp_path, "0.2.0-1"), package(tmp_path, "0.10.0-1"))
    return folder


def test_apt_finds_the_newest_package_and_fetches_it(
    home: Path, repository: Path, tmp_path: Path
) -> None:
    host = Host(tmp_path / "host", repository)
    updated = host.update()
    assert updated.returncode == 0, updated.stderr
    assert updated.stderr == ""
    assert "Candidate: 0.10.0-1" in host.apt("apt-cache", "policy", "axiom-client").stdout
    fetched = host.apt("apt-get", "--print-uris", "download", "axiom-client")
    assert "axiom-client_0.10.0-1_amd64.deb" in fetched.stdout

    publish(home, repository, package(tmp_path, "0.11.0-1"))  # beside the others
    assert host.update().returncode == 0
    assert "Candidate: 0.11.0-1" in host.apt("apt-cache", "policy", "axiom-client").stdout


def test_apt_refuses_what_was_not_signed(home: Path, repository: Path, tmp_path: Path) -> None:
    """A changed index, and a repository that another key signed."""
    index = repository / "dists" / "stable" / "main" / "binary-amd64"
    names = [*index.glob("Packages*"), *index.glob("by-hash/SHA256/*")]
    for path in names:
        path.write_bytes(path.read_bytes()[:-1])
    changed = Host(tmp_path / "first", repository).update()
    assert changed.returncode != 0

    host = Host(tmp_path / "second", repository)
    publish(home, repository, package(tmp_path, "0.12.0-1"), key="stranger")
    strange = host.update()
    assert strange.returncode != 0
    assert "NO_PUBKEY" in strange.stderr or "not signed" in strange.stderr


def test_a_package_that_changed_under_its_name_is_refused(
    home: Path, repository: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    changed = package(other, "0.2.0-1")
    changed.write_bytes(changed.read_bytes() + b"\n")
    script = str(ROOT / "packaging" / "apt_repository.py")
    done = subprocess.run(
        [sys.executable, script, str(repository), "axiom", str(changed)],
        env={**os.environ, "GNUPGHOME": str(home / "gnupg")}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert "raise the version" in done.stderr
