"""A checkout that runs under another one's virtual environment."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.support.processes import COMMAND_SECONDS_MAX
from tests.support.programs import FIXTURES

ROOT = Path(__file__).parents[2]


def test_tasks_run_the_code_of_the_agent_that_starts_them(tmp_path: Path) -> None:
    """The environment's editable install names this checkout, whose files the sandbox closes."""
    for package in ("axiom_client", "axiom_protocol"):
        shutil.copytree(ROOT / package, tmp_path / "copy" / package)
    script = FIXTURES / "experiments" / "short_walk.py"
    done = subprocess.run(
        [sys.executable, "-m", "axiom_client", "try", str(script), "--seed", "1"],
        env={**os.environ, "PYTHONPATH": str(tmp_path / "copy")}, cwd=tmp_path,
        capture_output=True, text=True, timeout=COMMAND_SECONDS_MAX, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
