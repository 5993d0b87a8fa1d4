"""The wheel and the sdist contain the expected files and no others; the wheel runs on its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from axiom_protocol import __version__
from tests.packaging.pages import ROOT

pytestmark = pytest.mark.slow  # builds, and installs from the package index

PACKAGES = ("axiom_protocol", "axiom_client", "axiom_server")
#: Suffixes of the other files in the packages.
DATA_SUFFIXES = {
    ".service",
    ".sql",
    ".html",
    ".css",
    ".js",
    ".svg",
    ".toml",
    ".json",
    ".txt",
    ".mako",
}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both."""
    pytest.importorskip("build", reason="the extra packages is not installed")
    folder = tmp_path_factory.mktemp("dist")
    line = [sys.executable, "-m", "build", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder


def tracked(*folders: str) -> set[str]:
    """What git knows below these folders."""
    line = ["git", "ls-files", "--", *folders]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True)
    return {name for name in done.stdout.splitlines() if (ROOT / name).exists()}


def test_wheel(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    assert wheel.name == f"axiom_client-{__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        metadata = next(name for name in archive.namelist() if name.endswith("/METADATA"))
        described = archive.read(metadata).decode()
    missing = {name for name in tracked(*PACKAGES) if name not in names}
    assert not missing
    for name in names:
        assert name.startswith(PACKAGES), name
        assert Path(name).suffix in {".py", *DATA_SUFFIXES}, name
    library = {Path(name).name for name in names if name.startswith("axiom_server/library/")}
    assert {Path(name).name for name in tracked("experiments")} <= library
    assert "License-Expression: Apache-2.0" in described
    assert f"Version: {__version__}\n" in described


def test_sdist(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "constraints.txt", "PKG-INFO", "LICENSE", "Makefile"} <= names
    folders = (*PACKAGES, "experiments", "tests", "docs", "packaging", "benchmarks")
    assert tracked(*folders) <= names
    unwanted = re.compile(r"\.git/|__pycache__|\.pyc$|\.venv|\.sqlite|\.pem$|\.log$|^build/|^dist/")
    assert not [name for name in names if unwanted.search(name)]


def test_wheel_installs_into_a_bare_environment_with_the_agents_dependencies_alone(
    built: Path, tmp_path: Path
) -> None:
    home = tmp_path / "bare"
    subprocess.run([sys.executable, "packaging/make_venv.py", str(home)], cwd=ROOT, check=True)
    (wheel,) = built.glob("*.whl")
    python = home / "bin/python"
    constraints = ["-c", str(ROOT / "constraints.txt")]
    install = [str(python), "-m", "pip", "install", "--quiet", *constraints, str(wheel)]
    subprocess.run(install, check=True, timeout=500)
    listed = subprocess.run(
        [str(python), "-m", "pip", "list", "--format=freeze"],
        capture_output=True, text=True, check=True,
    ).stdout.lower()  # fmt: skip
    for absent in ("torch", "starlette", "psycopg", "scipy", "pytest", "matplotlib"):
        assert f"\n{absent}==" not in listed
    given = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    shown = subprocess.run(
        [str(home / "bin/axiom-client"), "--help"], env=given, capture_output=True, text=True
    )
    assert shown.returncode == 0, shown.stderr
    assert "attach" in shown.stdout
    assert "torch" not in shown.stderr
