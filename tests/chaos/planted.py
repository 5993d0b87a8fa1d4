"""Test the tests: plant faults in a copy of the sources, one at a time; each must be detected.

    python -m tests.chaos.planted                    every one of them (some twenty minutes)
    python -m tests.chaos.planted lost_cancellation  one

Each fault must be detected by the check that is named with it, which passes without the fault.
Exits with 1 when a fault is not detected, or when a check fails without it.
"""

from __future__ import annotations

import shutil
import site
import subprocess
import sys
import tempfile
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import cache_from_source
from pathlib import Path

ROOT = Path(__file__).parents[2]
PARTS = ("axiom_client", "axiom_protocol", "axiom_server", "tests", "experiments", "pyproject.toml")
CHECK_SECONDS_MAX = 1500.0  # a busy machine takes long to settle
MACHINE = ("-m", "tests.decide.together", "20000")


def chaos(servers: int, *kinds: str) -> tuple[str, ...]:
    """A run of chaos with a few kinds of faults."""
    return (
        "-m", "tests.chaos", "--minutes", "1.5", "--servers", str(servers), "--seed", "5",
        "--settle", "400", "--only", ",".join(kinds),
    )  # fmt: skip


@dataclass(frozen=True)
class Plant:
    """A fault: replacements in one file, and the check that must then fail."""

    name: str
    file: str
    changes: tuple[tuple[str, str], ...]
    check: tuple[str, ...]


PLANTS = (
    Plant(
        "acknowledged_before_commit",
        "axiom_server/sync/batcher.py",
        (
            ("for pending in batch], wait=wait)\n        except",
             "for pending in batch], wait=wait, early=batch)\n        except"),
            ("(self, calls: Sequence[SyncCall], *, wait: bool) -> SyncReplies:",
             "(self, calls, *, wait, early):"),
            ("return await answer_syncs(connection, self.catalogue, self.config, calls, wait=wait)",
             "replies = await answer_syncs(\n"
             "                    connection, self.catalogue, self.config, calls, wait=wait)\n"
             "                for pending in early:\n"
             "                    if pending.call.token in replies.answers:\n"
             "                        pending.resolve(replies.answers[pending.call.token])\n"
             "                await asyncio.sleep(0.3)\n"
             "                return replies"),
        ),
        chaos(1, "kill_database"),
    ),
    Plant(
        "journal_without_write_ahead",
        "axiom_client/agent/journal.py",
        (
            ('            self._database.execute("BEGIN IMMEDIATE")\n            for command',
             "            if not self._database.in_transaction:\n"
             '                self._database.execute("BEGIN IMMEDIATE")\n            for command'),
            ("                self._write_one(command)\n"
             '            self._database.execute("COMMIT")',
             "                self._write_one(command)\n"
             '            self.writes = getattr(self, "writes", 0) + 1\n'
             "            if self.writes % 30 == 0:\n"
             '                self._database.execute("COMMIT")'),
        ),
        chaos(1, "kill_agent"),
    ),
    Plant(
        "done_before_it_is_written_down",
        "axiom_client/decide/step_builder.py",
        (("return first + rest", "return rest + first"),),
        MACHINE,
    ),
    Plant(
        "retried_without_end",
        "axiom_server/decide/retry.py",
        (("requeue=attempt < ATTEMPTS_MAX", "requeue=True"),),
        MACHINE,
    ),
    Plant(
        "retried_without_pause",
        "axiom_client/decide/retry.py",
        (("wait = min(cap, first * 2.0 ** min(failures - 1, 16))", "wait = 0.01"),),
        MACHINE,
    ),
    Plant(
        "lease_without_its_lock",
        "axiom_server/store/syncing_hosts.py",
        (
            ("ORDER BY h.host_id FOR NO KEY UPDATE OF h", "ORDER BY h.host_id"),
            ('LOCK_HOSTS + " SKIP LOCKED"', "LOCK_HOSTS"),
        ),
        chaos(2, "net_duplicate"),
    ),
    Plant(
        "lost_cancellation",
        "axiom_client/decide/agent.py",
        (('            task_events.cancel(builder, task, "cancelled by the server")\n', ""),),
        MACHINE,
    ),
    Plant(
        "late_request_taken_for_new",
        "axiom_server/decide/request_order.py",
        (("int(number) < int(last_number)", "False"),),
        MACHINE,
    ),
)  # fmt: skip


def main(names: Sequence[str]) -> int:
    """Plant and check; prints a line for each."""
    chosen = [plant for plant in PLANTS if not names or plant.name in names]
    with tempfile.TemporaryDirectory(prefix="planted-") as folder:
        copy = Path(folder)
        make_copy(copy)
        missed = [name for plant in chosen for name in _try(copy, plant)]
    print(
        f"{len(chosen) - len(missed)} of {len(chosen)} caught" + "".join(f"; {m}" for m in missed)
    )
    return int(bool(missed))


def _try(copy: Path, plant: Plant) -> list[str]:
    """The plant's name when its check does not detect it."""
    sound = _check(copy, plant.check)
    path = copy / plant.file
    before = path.read_text()
    _write(path, _planted(before, plant))
    try:
        found = _check(copy, plant.check)
    finally:
        _write(path, before)
    if sound.returncode:
        print(f"{plant.name}: the sound sources fail too:\n{_last_lines(sound)}", flush=True)
        return [f"{plant.name}: the check fails without it"]
    if not found.returncode:
        print(f"{plant.name}: NOT caught by {' '.join(plant.check)}", flush=True)
        return [f"{plant.name} is not caught"]
    print(f"{plant.name}: caught by {' '.join(plant.check)}:\n{_last_lines(found)}", flush=True)
    return []


def _write(path: Path, source: str) -> None:
    """Write the file and remove its bytecode: Python would use the old one for a source of the
    same second and size."""
    path.write_text(source)
    Path(cache_from_source(str(path))).unlink(missing_ok=True)


def _planted(source: str, plant: Plant) -> str:
    for old, new in plant.changes:
        if old not in source:
            raise SystemExit(f"{plant.file} no longer holds what {plant.name} replaces: {old!r}")
        source = source.replace(old, new)
    return source


def _check(copy: Path, words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [copy / "venv" / "bin" / "python", *words], cwd=copy, capture_output=True, text=True,
        check=False, timeout=CHECK_SECONDS_MAX,
    )  # fmt: skip


def _last_lines(done: subprocess.CompletedProcess[str]) -> str:
    """The end of a check's output: its findings, or the error that hypothesis shows."""
    lines = (done.stdout + done.stderr).splitlines()
    if "findings:" in done.stdout:
        at = next(i for i, line in enumerate(lines) if line.startswith("findings:"))
        return "\n".join(f"    {line[:160]}" for line in lines[at : at + 5])
    errors = [line for line in lines if line.startswith("AssertionError")]
    return "\n".join(f"    {line[:160]}" for line in errors[:1] or lines[-3:])


def make_copy(copy: Path) -> None:
    """The sources, and a virtual environment whose programs run them."""
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / part, copy / part)
    venv.create(copy / "venv", symlinks=True)
    packages = next((copy / "venv" / "lib").glob("python3*")) / "site-packages"
    others = [path for path in site.getsitepackages() if Path(path).is_dir()]
    lines = [str(copy), *(f"import site; site.addsitedir({path!r})" for path in others)]
    (packages / "planted.pth").write_text("\n".join(lines) + "\n")
    for name in ("axiom-client", "axiom-server"):
        program = copy / "venv" / "bin" / name
        module = name.replace("-", "_")
        program.write_text(
            f"#!{copy}/venv/bin/python\nfrom {module}.cli.app import main\n\nmain()\n"
        )
        program.chmod(0o755)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
