"""Writes packaging/pins/*.txt: every dependency of a release with its version and hashes.

python packaging/pin.py

The versions are those of constraints.txt. The hashes are of all files of that version on PyPI, so
that one list serves all systems. To install with them:

pip install --require-hashes -r packaging/pins/agent.txt && pip install --no-deps axiom-client
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PINS = ROOT / "packaging" / "pins"
#: File -> the extras of pyproject.toml that it covers.
LISTS = {"agent": (), "agent-torch": ("torch",), "server": ("server",)}
OLDEST_PYTHON = "3.11"
HEADER = "# Written by packaging/pin.py from constraints.txt; do not edit.\n"


def main() -> None:
    PINS.mkdir(exist_ok=True)
    for name, extras in LISTS.items():
        path = PINS / f"{name}.txt"
        resolve(path, extras)
        print(path.relative_to(ROOT))


def resolve(path: Path, extras: tuple[str, ...]) -> None:
    """Let uv resolve all dependencies within the constraints."""
    subprocess.run(
        [
            Path(sys.executable).parent / "uv",
"pip", "compile", "pyproject.toml", "-c", "constraints.txt",
            *(f"--extra={extra}" for extra in extras),
            "--universal", "--python-version", OLDEST_PYTHON, "--generate-hashes",
            "--no-header", "--no-annotate", "--quiet", "--output-file", str(path),
        ],
        cwd=ROOT,
        check=True,
    )  # fmt: skip
    path.write_text(HEADER + path.read_text())


if __name__ == "__main__":
    main()
