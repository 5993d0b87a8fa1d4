"""A whole agent under Windows' CPython in wine joins a project, computes and reports (`make wine`).

The test runs on Linux, where the project is; ``packaging/windows/run_tests.sh`` prepares wine.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from axiom_client.run.tryout import Run, try_experiment
from tests.support.small_project import WALK, SmallProject, served

WINE = Path(os.environ.get("AXIOM_WINE_DIR", "none"))
ROOT = Path(__file__).parents[2]
SECONDS_MAX = 240.0
pytestmark = pytest.mark.skipif(not (WINE / "embed").is_dir(), reason="for `make wine`")


def in_wine(folder: Path, *words: str) -> str:
    """Run the agent's command in wine to its end; what it printed."""
    environment = {
        **os.environ, "WINEPREFIX": str(WINE / "prefix"), "WINEDEBUG": "-all", "PYTHONUTF8": "1",
        "PYTHONPATH": f"Z:{WINE / 'site'};Z:{ROOT}", "AXIOM_CLIENT_DIR": f"Z:{folder}",
        "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    line = [os.environ["AXIOM_WINE"], str(WINE / "embed/python.exe"), "-m", "tests.wine.agent"]
    done = subprocess.run(
        [*line, *words], env=environment, cwd=ROOT, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=SECONDS_MAX, text=True,
        errors="replace",
    )  # fmt: skip
    assert "Traceback" not in done.stdout, done.stdout
    return done.stdout


def test_an_agent_joins_computes_and_reports(tmp_path: Path) -> None:
    project = SmallProject(tmp_path / "project")
    tasks = project.deploy(project.publish(), 3)
    folder = tmp_path / "Zoë agent"
    with served(project) as url:
        printed = in_wine(folder, url)
    assert "attached to Small project as host 7" in printed
    assert "ended: " in printed, printed
    assert project.outcomes() == dict.fromkeys(tasks, "success")
    here = try_experiment(Run(path=WALK, seed=tasks[0])).finished.result
    there = project.reports[tasks[0]][0].result
    assert there["exponent"] == pytest.approx(here["exponent"], rel=1e-8)
    facts = project.requests[0].host
    assert facts is not None
    assert facts.os.startswith("Windows")
