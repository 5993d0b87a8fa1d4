"""The package's scripts around an upgrade, as root, with a service that may not answer."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.packaging.pages import ROOT

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the scripts are root's")
SCRIPTS = ROOT / "packaging/linux"
RUNNING = 'echo "{\\"state\\": \\"running\\", \\"tasks_running\\": 0}"'
FOLDERS = ("etc", "run", "var/lib", "var/cache", "var/log")
CALLS = "run/calls"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A system whose systemd and agent note each call in /run/calls."""
    for name in (*FOLDERS, "bin", "run/systemd/system", "etc/axiom-client"):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
    (tmp_path / "etc/passwd").write_text(
        "root:x:0:0::/root:/bin/sh\naxiom-client:x:31415:31415::/:/bin/false\n"
    )
    (tmp_path / "etc/group").write_text("root:x:0:\naxiom-client:x:31415:\n")
    program(tmp_path, "systemctl", "exit 0")
    program(tmp_path, "sleep", "exit 0")
    program(tmp_path, "axiom-client", RUNNING)
    return tmp_path


def program(root: Path, name: str, body: str) -> None:
    file = root / "bin" / name
    file.write_text(f'#!/bin/sh\necho "{name} $*" >> /{CALLS}\n{body}\n')
    file.chmod(0o755)


def run(root: Path, script: str, *words: str) -> list[str]:
    """Run a script, which must succeed; returns the calls that it made."""
    mounts = "".join(f"mount --bind {root / name} /{name} && " for name in FOLDERS)
    line = ["unshare", "--mount", "sh", "-c", f'{mounts} exec sh {SCRIPTS / script} "$@"', "sh"]
    environment = {"PATH": f"{root / 'bin'}:/usr/sbin:/usr/bin:/sbin:/bin"}
    done = subprocess.run(
        [*line, *words], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    if "unshare failed" in done.stderr or "permission denied" in done.stderr.lower():
        pytest.skip("no mount namespaces here")
    assert done.returncode == 0, done.stderr
    return (root / CALLS).read_text().splitlines()


def test_an_upgrade_drains_stops_starts_and_resumes(root: Path) -> None:
    before = run(root, "before_install.sh", "upgrade", "0.1.0")
    assert any(call.startswith("axiom-client drain") for call in before)
    assert before[-1] == "systemctl stop axiom-client"
    after = run(root, "after_install.sh", "configure", "0.1.0")[len(before) :]
    assert after[-2:] == ["systemctl start axiom-client", "axiom-client resume"]
    assert not list((root / "run").glob("axiom-client.*"))


@pytest.mark.parametrize("answer", ["exit 8", f'[ "$1" = drain ] && exit 8\n{RUNNING}'])
def test_an_agent_that_does_not_answer_is_stopped_without_a_drain(root: Path, answer: str) -> None:
    program(root, "axiom-client", answer)
    calls = run(root, "before_install.sh", "upgrade", "0.1.0")
    assert calls[-1] == "systemctl stop axiom-client"
    assert not (root / "run/axiom-client.upgrade").exists()


def test_an_agent_that_does_not_start_leaves_the_package_configured(root: Path) -> None:
    run(root, "before_install.sh", "upgrade", "0.1.0")
    program(root, "systemctl", '[ "$1" != start ]')
    program(root, "axiom-client", "exit 8")
    calls = run(root, "after_install.sh", "configure", "0.1.0")
    assert calls.count("axiom-client resume") == 10
    assert not list((root / "run").glob("axiom-client.*"))


def test_a_drain_is_ended_as_soon_as_the_agent_answers(root: Path) -> None:
    run(root, "before_install.sh", "upgrade", "0.1.0")
    program(root, "axiom-client", 'echo >> /run/tries; [ "$(wc -l < /run/tries)" -ge 3 ]')
    calls = run(root, "after_install.sh", "configure", "0.1.0")
    assert calls[-1] == "axiom-client resume"
    assert calls[-5:].count("axiom-client resume") == 3
