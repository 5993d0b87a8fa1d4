"""Standalone archives hold what their system needs, run where they are unpacked, are releases."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from axiom_protocol import __version__
from axiom_server.trust.release_archive import read_archive
from tests.packaging.pages import ROOT

pytestmark = pytest.mark.slow  # builds, and installs from the package index

#: In the names of extension modules of each system.
BINARIES = {
    "linux-x86_64": "-x86_64-linux-gnu.so",
    "linux-aarch64": "-aarch64-linux-gnu.so",
    "darwin-arm64": "-darwin.so",
    "win32-amd64": ".cp313-win_amd64.pyd",
}
HERE = "linux-x86_64"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the archives of every system."""
    pytest.importorskip("uv", reason="the extra packages is not installed")
    folder = tmp_path_factory.mktemp("standalone")
    subprocess.run(
        [sys.executable, "packaging/standalone.py", folder], cwd=ROOT, check=True,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    return folder


@pytest.mark.parametrize("system", BINARIES)
def test_extension_modules_are_those_of_the_system(built: Path, system: str) -> None:
    names = _names(built, system)
    modules = [n for n in names if n.endswith((".so", ".pyd")) and ("cpython" in n or ".cp3" in n)]
    assert any("msgspec" in name for name in modules)
    assert [n for n in modules if not n.endswith(BINARIES[system]) and "abi3" not in n] == []
    assert not [name for name in names if "axiom_server" in name]


@pytest.mark.parametrize("system", BINARIES)
def test_the_archive_for_updates_is_a_release_of_its_system(built: Path, system: str) -> None:
    (path,) = built.glob(f"axiom-client-{__version__}-{system}-py*-only.zip")
    facts = read_archive(path.read_bytes()).facts
    assert (facts.version, facts.system) == (__version__, system)


@pytest.mark.skipif(
    (sys.platform, platform.machine(), sys.version_info[:2]) != ("linux", "x86_64", (3, 11)),
    reason=f"the archive for {HERE} needs Python 3.11",
)
def test_it_runs_where_it_is_unpacked(built: Path, tmp_path: Path) -> None:
    place = tmp_path / "a folder with spaces"
    with tarfile.open(built / f"axiom-client-{__version__}-{HERE}.tar.gz") as archive:
        archive.extractall(place, filter="data")
    program = place / "axiom-client" / "axiom-client"
    environment = {"PATH": "/usr/bin:/bin:" + str(Path(sys.executable).parent), "HOME": str(place)}

    def run(*words: str) -> str:
        return subprocess.run(
            [program, *words], env=environment, cwd=tmp_path, check=True, text=True,
            capture_output=True,
        ).stdout  # fmt: skip

    assert __version__ in run("--version")
    assert json.loads(run("doctor", "--json"))["ok"]


def _names(built: Path, system: str) -> list[str]:
    if system.startswith("win32"):
        with zipfile.ZipFile(built / f"axiom-client-{__version__}-{system}.zip") as archive:
            return archive.namelist()
    with tarfile.open(built / f"axiom-client-{__version__}-{system}.tar.gz") as archive:
        return archive.getnames()
