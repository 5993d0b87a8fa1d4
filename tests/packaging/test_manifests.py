"""Containers, cluster files and shell scripts, checked by linters."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from axiom_protocol import __version__
from axiom_server.decide.rates import Limits
from tests.packaging.pages import ROOT

PACKAGING = ROOT / "packaging"
PROGRAMS = Path(sys.executable).parent


def lint(program: str, *words: str | Path) -> None:
    """Run a linter of the dev extra; it must find nothing."""
    path = PROGRAMS / program
    if not path.exists():
        pytest.skip(f"{program} is not installed (extra dev)")
    line = [str(path), *map(str, words)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_containerfiles() -> None:
    lint("hadolint", *sorted(PACKAGING.glob("container/*.Containerfile")))


def test_compose() -> None:
    lint("compose-lint", PACKAGING / "container/compose.yaml")


@pytest.mark.parametrize("name", ["agent.yaml", "server.yaml"])
def test_kubernetes(name: str) -> None:
    lint("kubernetes-validate", "--strict", PACKAGING / "kubernetes" / name)


def test_yaml() -> None:
    lint("yamllint", "--strict", "-c", PACKAGING / "yamllint.yaml", PACKAGING, "mkdocs.yml")


def test_shell_scripts() -> None:
    scripts = [*PACKAGING.glob("linux/*.sh"), *PACKAGING.glob("slurm/*.sbatch")]
    lint("shellcheck", *sorted(scripts))


def test_images_are_of_this_version() -> None:
    files = [*PACKAGING.glob("kubernetes/*.yaml"), PACKAGING / "container/compose.yaml"]
    for file in files:
        for version in re.findall(r"axiom-(?:client|server):(\S+)", file.read_text()):
            assert version == __version__, file


def test_containers_are_not_root_and_write_nothing() -> None:
    for name in ("client", "server"):
        text = (PACKAGING / f"container/{name}.Containerfile").read_text()
        assert re.search(r"(?m)^USER \d{5}:\d{5}$", text)
        assert "HEALTHCHECK" in text
    for name in ("agent", "server"):
        text = (PACKAGING / f"kubernetes/{name}.yaml").read_text()
        containers = len(re.findall(r"(?m)^\s+image: ", text))
        confined = text.count("readOnlyRootFilesystem: true") + text.count(": *confined")
        assert confined == containers
        assert "runAsNonRoot: true" in text


def test_slurm_script_hands_the_signal_on_and_waits(tmp_path: Path) -> None:
    """With a stand-in for the agent that needs a moment to stop, as a real one does."""
    stand_in = tmp_path / "axiom-client"
    stand_in.write_text(
        "#!/bin/sh\n"
        f'if [ "$1" = attach ]; then mkdir -p "$AXIOM_CLIENT_DIR/state"; exit; fi\n'
        f"trap 'sleep 0.5; touch {tmp_path}/stopped; exit 0' TERM\n"
        f"touch {tmp_path}/started\n"
        "while :; do sleep 0.1; done\n"
    )
    stand_in.chmod(0o755)
    given = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}", "AXIOM_PROJECT": "https://project.example",
        "AXIOM_ACCOUNT_KEY": "key", "AXIOM_LOCAL": str(tmp_path), "USER": "ada",
    }  # fmt: skip
    script = str(PACKAGING / "slurm/axiom-client.sbatch")
    job = subprocess.Popen(["bash", script], env=given)
    until = time.monotonic() + 60
    while not (tmp_path / "started").exists():
        assert time.monotonic() < until
        time.sleep(0.05)
    job.send_signal(signal.SIGTERM)
    assert job.wait(timeout=60) == 0
    assert (tmp_path / "stopped").exists()


def test_the_shipped_web_server_configuration_hides_the_metrics() -> None:
    for file in (PACKAGING / "container/Caddyfile", ROOT / "docs/operator.md"):
        assert re.search(r"^\s*respond /metrics 404$", file.read_text(), re.MULTILINE), file
    assert "location = /metrics { return 404; }" in (ROOT / "docs/operator.md").read_text()


def test_no_shipped_configuration_trusts_a_forwarded_address() -> None:
    """Only the operator may name the web server, in project.toml."""
    for file in filter(Path.is_file, PACKAGING.rglob("*.*")):
        for line in file.read_text(errors="replace").splitlines():
            assert line.lstrip().startswith("#") or "proxies" not in line, (file, line)
    assert Limits().proxies == ()
