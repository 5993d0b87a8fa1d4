"""A real full disk: a folder on a small tmpfs, in a mount namespace of the test."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.commands import PROGRAMS, finished
from tests.support.programs import FIXTURES, Program, Server

WALK = FIXTURES / "experiments" / "short_walk.py"


class SmallDisk:
    """A process in a separate mount namespace, with a small tmpfs at ``folder``."""

    def __init__(self, folder: Path, size: str) -> None:
        self.folder = folder
        script = f'mount -t tmpfs -o size={size} tmpfs "$1" && echo mounted && exec sleep 600'
        self.holder = subprocess.Popen(
            ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh", folder],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.holder.stdout is not None
        assert self.holder.stdout.readline() == "mounted\n"

    def enter(
        self, line: list[str], environment: dict[str, str]
    ) -> subprocess.CompletedProcess[str]:
        target = ["nsenter", "--user", "--mount", "--preserve-credentials"]
        return finished([*target, "--target", str(self.holder.pid), *line], environment)

    def fill(self) -> None:
        script = 'dd if=/dev/zero of="$1/ballast" bs=4k 2>/dev/null; true'
        self.enter(["sh", "-c", script, "sh", str(self.folder)], dict(os.environ))

    def empty(self) -> None:
        self.enter(["rm", str(self.folder / "ballast")], dict(os.environ))

    def close(self) -> None:
        self.holder.kill()
        self.holder.communicate()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    assert shutil.which("unshare"), "util-linux is part of every Debian"
    folder = tmp_path / "small"
    folder.mkdir()
    made = SmallDisk(folder, "4m")
    yield made
    made.close()


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    lines = [text for text in done.stderr.splitlines() if text.strip()]
    assert "Traceback" not in done.stdout + done.stderr
    assert len(lines) == 1, done.stderr
    return lines[0]


def test_agent_on_a_full_disk_stops_with_one_line_and_goes_on_when_there_is_room(
    server: Server, disk: SmallDisk
) -> None:
    server.run("publish", str(WALK))
    server.run("deploy", "short_walk", "--count", "3")
    small = Program(name="axiom-client", folder=disk.folder, variable="AXIOM_CLIENT_DIR")
    attached = disk.enter(*small.command("attach", server.url))
    assert attached.returncode == 0, attached.stderr

    disk.fill()
    full = disk.enter(*small.command("run", "--until-idle", "--no-display"))
    assert full.returncode == 20  # disk full, in docs/exit-codes.md
    assert "space" in full.stderr.splitlines()[-1]
    assert "Traceback" not in full.stderr

    disk.empty()
    again = disk.enter(*small.command("run", "--until-idle", "--no-display"))
    assert again.returncode == 0, again.stderr
    assert server.json("review")["results"] == 3


def test_server_on_a_full_disk_says_so(disk: SmallDisk) -> None:
    disk.fill()
    line = [str(PROGRAMS / "axiom-server"), "init", str(disk.folder / "project")]
    assert "space" in one_line(disk.enter(line, dict(os.environ)))
