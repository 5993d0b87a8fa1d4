"""The manifests of winget and Homebrew, made for archives that stand in for the real ones.

The schemas of winget are Microsoft's. Where AXIOM_WINGET_SCHEMAS names a folder with them
(schemas/JSON/manifests/v1.6.0 of github.com/microsoft/winget-cli), the manifests are checked by
them. Homebrew has no schema: a formula is Ruby, and is checked as such where Ruby is installed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from axiom_protocol import __version__

ROOT = Path(__file__).parents[2]
URL = f"https://axiom.example/releases/{__version__}"
ARCHIVES = {
    "win32-amd64": "zip", "darwin-arm64": "tar.gz", "linux-x86_64": "tar.gz",
    "linux-aarch64": "tar.gz",
}  # fmt: skip
SCHEMAS = os.environ.get("AXIOM_WINGET_SCHEMAS", "")


def name(system: str) -> str:
    return f"axiom-client-{__version__}-{system}.{ARCHIVES[system]}"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    for system in ARCHIVES:
        (folder / name(system)).write_text(system)
    done = run(folder)
    assert done.returncode == 0, done.stderr
    return folder


def run(folder: Path) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, str(ROOT / "packaging" / "manifests.py"), str(folder), URL]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)


def winget(made: Path) -> dict[str, dict[str, Any]]:
    """The manifests, by their kind."""
    found = [yaml.safe_load(path.read_text()) for path in (made / "winget").glob("*.yaml")]
    return {manifest["ManifestType"]: manifest for manifest in found}


def test_winget_gets_the_archive_for_windows(made: Path) -> None:
    manifests = winget(made)
    assert sorted(manifests) == ["defaultLocale", "installer", "version"]
    assert {m["PackageVersion"] for m in manifests.values()} == {__version__}
    [installer] = manifests["installer"]["Installers"]
    assert installer["InstallerUrl"] == f"{URL}/{name('win32-amd64')}"
    assert installer["InstallerSha256"].lower() == hashlib.sha256(b"win32-amd64").hexdigest()


@pytest.mark.skipif(not SCHEMAS, reason="AXIOM_WINGET_SCHEMAS names no folder of schemas")
def test_winget_accepts_the_manifests(made: Path) -> None:
    for kind, manifest in winget(made).items():
        version = manifest["ManifestVersion"]
        schema = json.loads((Path(SCHEMAS) / f"manifest.{kind}.{version}.json").read_text())
        jsonschema.Draft202012Validator(schema).validate(manifest)
        with pytest.raises(jsonschema.ValidationError):  # the schema does refuse things
            jsonschema.Draft202012Validator(schema).validate({**manifest, "PackageVersion": "a/b"})


def test_homebrew_gets_each_archive_with_its_hash(made: Path) -> None:
    formula = (made / "homebrew" / "axiom-client.rb").read_text()
    pairs = re.findall(r'url "([^"]+)"\n +sha256 "([^"]+)"', formula)
    assert sorted(pairs) == sorted(
        (f"{URL}/{name(system)}", hashlib.sha256(system.encode()).hexdigest())
        for system, ending in ARCHIVES.items()
        if ending == "tar.gz"
    )


@pytest.mark.skipif(shutil.which("ruby") is None, reason="Ruby is not installed")
def test_the_formula_is_ruby(made: Path) -> None:
    line = ["ruby", "-c", str(made / "homebrew" / "axiom-client.rb")]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "Syntax OK", done.stderr


def test_a_missing_archive_is_named(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert done.returncode != 0
    assert "is missing; build it" in done.stderr
