"""A short run of chaos; ``make chaos`` is the long one, with every kind of fault."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MINUTES = "1.5"
RUN_SECONDS_MAX = 1500.0  # on a machine that is busy with anything
#: Faults left out of the short run: a copied disk image, an older backup.
WITHOUT = "clone_agent,restore_backup"


@pytest.mark.slow  # CI runs `make chaos-short`
def test_nothing_is_lost_or_credited_twice_under_faults(tmp_path: Path) -> None:
    record = tmp_path / "chaos.json"
    words = ["--minutes", MINUTES, "--seed", "18", "--without", WITHOUT, "--json", str(record)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos", *words], cwd=ROOT, capture_output=True, text=True,
        timeout=RUN_SECONDS_MAX, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    one, two = json.loads(record.read_text())
    assert (one["servers"], two["servers"]) == (1, 2)
    assert one["faults"] + two["faults"] >= 10
    assert one["acknowledged"] + two["acknowledged"] > 0
