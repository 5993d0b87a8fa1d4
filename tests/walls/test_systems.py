"""The agent's code for Windows and macOS: its imports, and what the check of its types relies on.

`make lint` checks the types for each system.
`make wine` imports it under a Windows CPython, which is more; no other way was found to do so for
macOS than to tell an interpreter of this system that it is one of that.
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
#: What the standard library and other packages decide by the system must be decided before.
IMPORT_AS_MACOS = """
import asyncio, ctypes, importlib, logging.handlers, multiprocessing.connection, pkgutil, select
import sys
import httpx, msgspec, numpy, platformdirs, psutil, rich.live, tomlkit, truststore, typer
import tuf.ngclient
import axiom_client
sys.platform = "darwin"
others, words = [], ("__main__", "windows_", "logind")
for module in pkgutil.walk_packages(axiom_client.__path__, "axiom_client."):
    if any(word in module.name for word in words):
        continue
    try:
        importlib.import_module(module.name)
    except AssertionError:
        others.append(module.name)
from axiom_client.host import macos_input, presence
from axiom_client.run import macos_launchers, pool, system
from axiom_client.sandbox import mode
assert system.Launchers is macos_launchers.Launchers
assert presence.input_seconds_ago is macos_input.input_seconds_ago
assert "axiom_client.run.zygote" in others, others
assert not [name for name in others if "macos" in name or "posix" in name], others
chosen = mode.choose()
assert chosen.mode == "none" and "cannot be loaded" in chosen.reason, chosen
print(len(others))
"""


def test_types_are_not_checked_for_nothing(tmp_path: Path) -> None:
    """mypy does find a name that Windows lacks, in a module that does not assert its system."""
    wrong = tmp_path / "wrong.py"
    wrong.write_text("import os\n\nprint(os.fork())\n")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--platform", "win32", "--cache-dir", str(tmp_path / "c"),
         "--config-file", str(ROOT / "pyproject.toml"), str(wrong)],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert 'no attribute "fork"' in done.stdout


def test_imports_as_on_macos() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_AS_MACOS], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_every_module_of_one_system_says_so() -> None:
    """Those that ruff lets assert before they import: by a name, or listed."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    ignored = settings["tool"]["ruff"]["lint"]["per-file-ignores"]
    listed = {path for path, codes in ignored.items() if codes == ["E402"]}
    for path in ROOT.glob("axiom_client/**/*.py"):
        asserts = "\nassert sys.platform" in path.read_text()
        name = path.relative_to(ROOT).as_posix()
        prefixed = path.name.startswith(("linux_", "macos_", "posix_", "windows_"))
        assert not asserts or prefixed or name in listed, name
        assert not path.name.startswith("linux_") or asserts, name
