"""The import rules are enforced: import-linter reports each forbidden import in a scratch copy.

All are planted at once, since each run reads the whole project.
"""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("axiom_protocol", "axiom_client", "axiom_server")
#: (importing module, imported module): one or more for each contract.
BREACHES = [
    ("axiom_protocol.messages", "axiom_client.errors"),
    ("axiom_protocol.text", "axiom_server.errors"),
    ("axiom_protocol.messages", "axiom_protocol.result"),
    ("axiom_client.host.cores", "axiom_server.errors"),
    ("axiom_server.store.alarms", "axiom_client.errors"),
    ("axiom_server.decide.rates", "axiom_server.web.slow_clients"),
    ("axiom_client.decide.blocked", "axiom_client.agent.lock"),
    ("axiom_client.decide.schedule", "axiom_client.errors"),
    ("axiom_server.decide.credit", "axiom_server.errors"),
    ("axiom_server.sync.reports", "axiom_server.store.database"),
    ("axiom_client.decide.retry", "time"),
    ("axiom_server.decide.deploy", "random"),
    ("axiom_client.host.heat", "axiom_client.project.api"),
    ("axiom_client.run.disk", "axiom_client.host.cores"),
    ("axiom_client.sandbox.libc", "axiom_client.run.disk"),
    ("axiom_client.service.notify", "axiom_client.agent.loop"),
    ("axiom_client.control.snapshot", "axiom_client.agent.journal"),
    ("axiom_server.store.alarms", "axiom_server.trust.keys"),
    ("axiom_server.trust.keys", "axiom_server.store.users"),
    ("axiom_server.review.log", "axiom_server.web.metrics"),
    ("axiom_server.pages.front", "axiom_server.cli.shared"),
    ("axiom_server.errors", "axiom_server.decide.credit"),
]
STRAYS = ("axiom_protocol/stray.py", "axiom_client/stray.py", "axiom_server/stray.py")


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the packages and of the contracts."""
    folder = tmp_path_factory.mktemp("walls")
    for package in PACKAGES:
        ignored = shutil.ignore_patterns("__pycache__", "templates", "no_cuda")
        shutil.copytree(ROOT / package, folder / package, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def lint(folder: Path) -> tuple[int, str]:
    """Exit code and report of import-linter on the packages in ``folder``."""
    code = f"import sys; sys.path.insert(0, {str(folder)!r}); sys.argv = ['lint-imports', "
    code += "'--no-cache']; from importlinter.cli import lint_imports_command; "
    code += "lint_imports_command()"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=240
    )
    return done.returncode, done.stdout + done.stderr


def test_each_forbidden_import_is_reported(scratch: Path) -> None:
    untouched = lint(scratch)
    assert untouched[0] == 0, untouched[1]
    for importer, imported in BREACHES:
        path = scratch / (importer.replace(".", "/") + ".py")
        path.write_text(path.read_text() + f"\nimport {imported}\n")
    code, report = lint(scratch)
    assert code != 0
    missed = [pair for pair in BREACHES if f"{pair[0]} -> {pair[1]}" not in report]
    assert not missed, report
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    unbroken = [c["name"] for c in contracts["contracts"] if f"{c['name']} BROKEN" not in report]
    assert not unbroken, report


def test_a_module_outside_every_layer_is_reported(scratch: Path) -> None:
    for stray in STRAYS:
        (scratch / stray).write_text("")
    code, report = lint(scratch)
    assert code != 0
    assert report.count("stray") >= len(STRAYS), report


@pytest.mark.parametrize("path", sorted((ROOT / "experiments").glob("*.py")), ids=lambda p: p.stem)
def test_experiments_import_numpy_torch_and_the_standard_library_only(path: Path) -> None:
    allowed = {"numpy", "torch", *sys.stdlib_module_names}
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").split(".")[0] or "a relative import")
    assert found <= allowed
