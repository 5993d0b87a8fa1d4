"""Mutation test of both packages of decisions: change one expression at a time; a test must fail.

    python -m tests.mutants                    a sample of 400 mutants (an hour on two cores)
    python -m tests.mutants --sample 0         all of them (over a night)
    python -m tests.mutants --only 'axiom_server.decide.lease.*'

Mutmut makes the mutants and chooses the tests that reach each. The report lists the survivors with
their changes; tests/decide/survivors.md says why no test can notice those that are left.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
PARTS = ("axiom_client", "axiom_protocol", "axiom_server", "tests", "experiments", "pyproject.toml")
FIRST = "axiom_server.decide.request_order*"  # few mutants: the first run generates all others
#: Codes in mutmut's records: no test failed; no test reaches the mutant; mypy rejects it; not run.
SURVIVED, NOT_REACHED, MISTYPED, NOT_RUN = 0, 33, 37, None
KILLED = frozenset({1, 3})


def main(words: Sequence[str]) -> int:
    """Run, write the report, print its first lines."""
    given = _arguments(words)
    with tempfile.TemporaryDirectory(prefix="mutants-") as name:
        folder = Path(name)
        _copy(folder)
        _run_mutmut(folder, given.children, [FIRST])
        every = sorted(_results(folder))
        chosen = _chosen(every, given.only, given.sample, given.seed)
        _run_mutmut(folder, given.children, chosen)
        report = _report(folder, every, chosen, given.seed)
    given.report.write_text(report)
    print(report.partition("\n\n")[0], flush=True)
    print(f"survivors: {given.report}")
    return 0


def _arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests.mutants", description=__doc__)
    parser.add_argument("--sample", type=int, default=400, help="so many mutants; 0: all")
    parser.add_argument("--seed", type=int, default=18, help="of the sample")
    parser.add_argument("--only", default="*", help="names of mutants, as a pattern")
    parser.add_argument("--children", type=int, default=2, help="mutants at a time")
    parser.add_argument("--report", type=Path, default=Path("mutants.txt"))
    return parser.parse_args(words)


def _copy(folder: Path) -> None:
    """The sources, so that they can be edited meanwhile."""
    for part in PARTS:
        if (ROOT / part).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / part, folder / part, ignore=ignored)
        else:
            shutil.copy(ROOT / part, folder / part)


def _run_mutmut(folder: Path, children: int, names: Sequence[str]) -> None:
    tools = Path(sys.executable).parent  # of this environment: mutmut, and mypy, which it calls
    path = os.pathsep.join([str(tools), os.environ.get("PATH", os.defpath)])
    subprocess.run(
        [tools / "mutmut", "run", "--max-children", str(children), *names],
        cwd=folder, check=True, env={**os.environ, "OMP_NUM_THREADS": "1", "PATH": path},
    )  # fmt: skip


def _results(folder: Path) -> dict[str, int | None]:
    """The exit code of each mutant's tests, by the mutant's name."""
    found: dict[str, int | None] = {}
    for path in folder.glob("mutants/*/decide/*.py.meta"):
        found |= json.loads(path.read_text())["exit_code_by_key"]
    return found


def _chosen(every: Sequence[str], only: str, sample: int, seed: int) -> list[str]:
    fitting = [name for name in every if fnmatch.fnmatch(name, only)]
    if not sample or sample >= len(fitting):
        return fitting
    return sorted(random.Random(seed).sample(fitting, sample))


def _report(folder: Path, every: Sequence[str], chosen: Sequence[str], seed: int) -> str:
    results = _results(folder)
    survivors = [name for name in chosen if results[name] in (SURVIVED, NOT_REACHED)]
    counts = Counter(_verdict(results[name]) for name in chosen)
    lines = [f"{len(chosen)} of {len(every)} mutants (seed {seed})"]
    lines += [f"{count:5d} {verdict}" for verdict, count in sorted(counts.items())]
    changes = [_change(folder, name) for name in survivors]
    return "\n".join(lines) + "\n\n" + "\n".join(changes)


def _verdict(code: int | None) -> str:
    if code in KILLED:
        return "killed"
    named = {
        SURVIVED: "survived",
        NOT_REACHED: "reached by no test",
        MISTYPED: "rejected by mypy",
        NOT_RUN: "not run",
    }
    return named.get(code, "ended by the time limit or a signal")


def _change(folder: Path, name: str) -> str:
    """The lines that a mutant changes."""
    shown = subprocess.run(
        [Path(sys.executable).with_name("mutmut"), "show", name],
        cwd=folder, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    changed = [
        line for line in shown.splitlines()
        if line.startswith(("+", "-")) and not line.startswith(("+++", "---"))
    ]  # fmt: skip
    return "\n".join([name, *changed, ""])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
