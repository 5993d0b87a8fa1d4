"""Writes the manifests of winget and Homebrew: python packaging/manifests.py DIST URL [FOLDER]

DIST holds the standalone archives (packaging/standalone.py), which are published below URL, such as
https://axiom.example/releases/0.2.0. In FOLDER (default: DIST) appear

    winget/*.yaml           the three files of a version, for github.com/microsoft/winget-pkgs
    homebrew/axiom-client.rb    a formula, for the Formula folder of a tap

Their numbers (version, SHA-256) are those of the archives.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from standalone import SYSTEMS

from axiom_protocol import __version__

IDENTIFIER = "Axiom.Client"
SCHEMA_VERSION = "1.6.0"  # of winget's manifests
HOMEPAGE = "https://axiom.example"
LICENSE = "Apache-2.0"
ABOUT = "Volunteer computing for the science of neural networks"
HOMEBREW_PYTHON = SYSTEMS["darwin-arm64"][1]


def main(dist: Path, url: str, folder: Path) -> None:
    for path, text in [*winget(dist, url), homebrew(dist, url)]:
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        print(target)


def archive(dist: Path, url: str, system: str) -> tuple[str, str]:
    """The address and the SHA-256 of a system's archive. Exits where it is missing."""
    ending = "zip" if system.startswith("win32") else "tar.gz"
    path = dist / f"axiom-client-{__version__}-{system}.{ending}"
    if not path.exists():
        raise SystemExit(f"{path} is missing; build it: python packaging/standalone.py {dist}")
    return f"{url.rstrip('/')}/{path.name}", hashlib.sha256(path.read_bytes()).hexdigest()


# --- winget ---------------------------------------------------------------------------------------


def winget(dist: Path, url: str) -> list[tuple[str, str]]:
    """The three manifests of a version: which it is, how it is installed, what it is."""
    kinds = {
        "": {"DefaultLocale": "en-US", "ManifestType": "version"},
        ".installer": installer(*archive(dist, url, "win32-amd64")),
        ".locale.en-US": described(),
    }
    return [
        (f"winget/{IDENTIFIER}{ending}.yaml", yaml(content, ending))
        for ending, content in kinds.items()
    ]


def installer(address: str, sha256: str) -> dict[str, Any]:
    """A zip with a program that needs no installation; winget puts its name into PATH."""
    return {
        "InstallerType": "zip",
        "NestedInstallerType": "portable",
        "NestedInstallerFiles": [
            {
                "RelativeFilePath": "axiom-client\\axiom-client.exe",
                "PortableCommandAlias": "axiom-client",
            }
        ],
        "Installers": [
            {"Architecture": "x64", "InstallerUrl": address, "InstallerSha256": sha256.upper()}
        ],
        "ManifestType": "installer",
    }


def described() -> dict[str, Any]:
    """What winget shows of the package."""
    return {
        "PackageLocale": "en-US",
        "Publisher": "The Axiom developers",
        "PackageName": "axiom-client",
        "PackageUrl": HOMEPAGE,
        "License": LICENSE,
        "ShortDescription": ABOUT,
        "Tags": ["volunteer-computing", "neural-networks", "science"],
        "ManifestType": "defaultLocale",
    }


def yaml(content: dict[str, Any], ending: str) -> str:
    """A manifest. JSON's values are YAML, so that nothing needs quoting of its own."""
    whole = {"PackageIdentifier": IDENTIFIER, "PackageVersion": __version__, **content,
             "ManifestVersion": SCHEMA_VERSION}  # fmt: skip
    kind = content["ManifestType"]
    head = f"# yaml-language-server: $schema=https://aka.ms/winget-manifest.{kind.lower()}."
    lines = [f"{key}: {json.dumps(value)}" for key, value in whole.items()]
    return "\n".join([f"{head}{SCHEMA_VERSION}.schema.json", *lines]) + "\n"


# --- Homebrew -------------------------------------------------------------------------------------


def homebrew(dist: Path, url: str) -> tuple[str, str]:
    """A formula that installs the standalone archive beside Homebrew's Python."""
    made = {system: archive(dist, url, system) for system in SYSTEMS if system[:5] != "win32"}
    parts = "\n".join(
        _source(made[system], where, processor)
        for system, where, processor in (
            ("darwin-arm64", "on_macos", "on_arm"),
            ("linux-x86_64", "on_linux", "on_intel"),
            ("linux-aarch64", "on_linux", "on_arm"),
        )
    )
    return "homebrew/axiom-client.rb", FORMULA.format(
        about=ABOUT, homepage=HOMEPAGE, license=LICENSE, version=__version__,
        python=HOMEBREW_PYTHON, sources=parts,
    )  # fmt: skip


def _source(made: tuple[str, str], where: str, processor: str) -> str:
    address, sha256 = made
    return (
        f"  {where} do\n    {processor} do\n"
        f'      url "{address}"\n      sha256 "{sha256}"\n    end\n  end\n'
    )


FORMULA = """\
class AxiomClient < Formula
  desc "{about}"
  homepage "{homepage}"
  version "{version}"
  license "{license}"

{sources}
  depends_on "python@{python}"

  def install
    libexec.install Dir["*"]
    bin.write_exec_script libexec/"axiom-client"
  end

  service do
    run [opt_bin/"axiom-client", "run", "--no-display"]
    keep_alive crashed: true
    environment_variables PATH: std_service_path_env
  end

  test do
    assert_match version.to_s, shell_output("#{{bin}}/axiom-client --version")
  end
end
"""


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3] if len(sys.argv) == 4 else sys.argv[1]))
