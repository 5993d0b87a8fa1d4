"""Archives of this checkout's agent as wheels, under other versions and with changes."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("axiom_protocol", "axiom_client")


def build_wheel(
    folder: Path, version: str, changes: Mapping[str, tuple[str, str]] | None = None
) -> Path:
    """A wheel of the agent that says it is ``version``. The server's package is left out.

    changes  by file: a text in it, and what takes its place
    """
    wheel = folder / f"axiom_client-{version}-py3-none-any.whl"
    files = {
        path.relative_to(ROOT).as_posix(): path.read_bytes()
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }
    module = "axiom_protocol/__init__.py"
    files[module] = re.sub(
        rb'__version__ = "[^"]+"', f'__version__ = "{version}"'.encode(), files[module]
    )
    for name, (old, new) in (changes or {}).items():
        assert files[name].count(old.encode()) == 1, f"{name} has this text not once: {old}"
        files[name] = files[name].replace(old.encode(), new.encode())
    info = f"axiom_client-{version}.dist-info"
    files[f"{info}/METADATA"] = (
        f"Metadata-Version: 2.4\nName: axiom-client\nVersion: {version}\nRequires-Python: >=3.11\n"
    ).encode()
    files[f"{info}/WHEEL"] = (
        b"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    write_zip(wheel, files)
    return wheel


def write_zip(path: Path, files: Mapping[str, bytes]) -> Path:
    """A zip of these files, whose bytes do not depend on the time."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return path
