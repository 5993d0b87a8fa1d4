"""Commands of the programs, as the checks of GPUs run them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def environment() -> dict[str, str]:
    paths = [str(ROOT), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}


def client(*words: str, folder: Path) -> str:
    return command("axiom_client", words, {**environment(), "AXIOM_CLIENT_DIR": str(folder)})


def command(module: str, words: tuple[str, ...], variables: dict[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, "-P", "-m", module, *words],
        env=variables, capture_output=True, text=True, timeout=150, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{words} -> {done.returncode}: {done.stdout}{done.stderr}"[-2000:]
    return done.stdout


def output(line: list[Any]) -> str:
    return subprocess.run(line, capture_output=True, text=True, timeout=30, check=True).stdout


def wait_for(what: str, ready: Callable[[], Any], seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < until, f"waited {seconds:.0f} s for {what}"
        time.sleep(0.1)
