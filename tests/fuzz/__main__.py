"""Fuzz what strangers can send: ``python -m tests.fuzz [--inputs N] [TARGET ...]``, or make fuzz.

Each target gets N inputs that are almost right (one in 50 made by hypothesis from the words of the
format, the rest by breaking those here and there) and, where atheris is installed, N more found by
coverage. The target ``api`` gets N requests over the network. A finding is shown, kept in --folder,
and ends it with 1.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from tests.fuzz import api
from tests.fuzz.structured import STRUCTURED, variants
from tests.fuzz.targets import CORPUS, TARGETS

INPUTS = 100_000
VARIANTS = 50  # of each that hypothesis makes: making one costs as much as checking hundreds
KEPT = 1000  # inputs that are given again to see whether memory grows
GROWTH_ROUNDS = 20
GROWTH_BYTES_MAX = 8 * 1024 * 1024  # over 20,000 inputs: 400 bytes of each that were never let go


def main() -> int:
    """Fuzz the targets one after the other; 0 when nothing was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=INPUTS, help="of each kind, for each target")
    parser.add_argument("--folder", type=Path, default=Path("fuzz-findings"))
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join([*TARGETS, "api"]))
    said = parser.parse_args()
    said.folder.mkdir(parents=True, exist_ok=True)
    findings = 0
    for name in said.targets or [*TARGETS, "api"]:
        if name == "api":
            findings += requests(said.inputs, said.folder)
            continue
        replay(name)
        findings += structured(name, TARGETS[name], STRUCTURED[name], said.inputs, said.folder)
        findings += by_coverage(name, said.inputs, said.folder)
    print(f"{findings} findings" + (f", kept in {said.folder}" if findings else ""))
    return 1 if findings else 0


def requests(inputs: int, folder: Path) -> int:
    """The API over the network; how many findings."""
    with api.served() as project:
        api.replay(project)
        return api.run(project, inputs, folder)


def replay(name: str) -> int:
    """Run the kept inputs of a target; how many there were. Raises what an input raises."""
    kept = sorted((CORPUS / name).iterdir())
    for path in kept:
        TARGETS[name](path.read_bytes())
    return len(kept)


def structured(
    name: str,
    check: Callable[[bytes], None],
    strategy: SearchStrategy[bytes],
    inputs: int,
    folder: Path,
) -> int:
    """Inputs by hypothesis; how many findings. The smallest input of a finding is kept."""
    begun, count, last, kept = time.monotonic(), 0, b"", list[bytes]()

    @settings(
        max_examples=max(1, inputs // VARIANTS),
        database=None,
        deadline=None,
        derandomize=False,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy, st.integers(0, 2**32))
    def run(data: bytes, seed: int) -> None:
        nonlocal count, last
        for last in variants(data, seed, VARIANTS):
            count += 1
            check(last)
        if len(kept) < KEPT:
            kept.append(last)

    try:
        run()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the finding
        path = folder / f"{name}-structured"
        path.write_bytes(last)
        print(f"{name}: FOUND {type(error).__name__}: {str(error)[:300]}; input in {path}")
        return 1
    grown = growth(check, kept)
    print(
        f"{name}: {count:,} structured inputs in {time.monotonic() - begun:.0f} s, "
        f"memory grew by {grown / 1e6:.1f} MB",
        flush=True,
    )
    if grown > GROWTH_BYTES_MAX:
        print(f"{name}: FOUND growth of memory")
        return 1
    return 0


def growth(check: Callable[[bytes], None], inputs: list[bytes]) -> int:
    """By how many bytes this process grows while it is given the same inputs again and again.

    Apart from the run itself, in which hypothesis remembers all that it made.
    """
    for data in inputs:
        check(data)
    gc.collect()
    memory = psutil.Process().memory_info
    before = memory().rss
    for data in inputs * GROWTH_ROUNDS:
        check(data)
    gc.collect()
    return max(0, int(memory().rss - before))


def by_coverage(name: str, inputs: int, folder: Path) -> int:
    """Inputs by atheris, in a process of its own; how many findings."""
    if importlib.util.find_spec("atheris") is None:
        print(f"{name}: atheris is not installed; no inputs by coverage")
        return 0
    begun = time.monotonic()
    line = [sys.executable, "-m", "tests.fuzz.coverage", name, str(inputs), str(folder)]
    done = subprocess.run(line, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode != 0:
        print(f"{name}: FOUND by coverage:\n{(done.stdout + done.stderr)[-3000:]}")
        return 1
    stats = [text for text in done.stderr.splitlines() if text.startswith("stat::")]
    told = ", ".join(
        text.removeprefix("stat::").replace(":", "")
        for text in stats
        if "executed_units" in text or "peak_rss" in text
    )
    print(f"{name}: by coverage in {time.monotonic() - begun:.0f} s: {told}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
