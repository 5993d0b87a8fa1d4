"""The packages in a clean Debian root: installed, used, upgraded, removed.

debootstrap makes the root once, into build/; each test works in a copy. The server runs outside, on
loopback, which the root shares. There is no systemd in the root: the unit is tested elsewhere, here
the agent is run as the unit's user.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.conftest import held_walk, server  # fixtures
from tests.packaging.pages import ROOT, blocks
from tests.support.processes import WAIT_SECONDS, wait_for
from tests.support.programs import FIXTURES, Server

__all__ = ["held_walk", "server"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="chroot and dpkg need root"),
]
PRISTINE = ROOT / "build" / "debian-root"
MIRROR = "http://deb.debian.org/debian"
SUITE = "bookworm"  # whose python3 is the one that the packages here are built with
PACKAGES = ("python3", "ca-certificates", "man-db", "procps")
COMMAND_SECONDS = 500


@dataclass(frozen=True)
class Root:
    """A Debian in a folder. Commands run in process and mount namespaces of their own."""

    path: Path

    def line(self, *words: str) -> list[str]:
        proc = f"--mount-proc={self.path / 'proc'}"
        return ["unshare", "--mount", "--pid", "--fork", "--kill-child", proc,
                "chroot", str(self.path), "env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
                "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C.UTF-8", *words]  # fmt: skip

    def run(self, *words: str, code: int = 0) -> str:
        done = subprocess.run(
            self.line(*words), capture_output=True, text=True, timeout=COMMAND_SECONDS,
            stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        assert done.returncode == code, f"{words} -> {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def bring(self, file: Path) -> str:
        """Copy a file in; its path inside."""
        shutil.copy(file, self.path / "tmp" / file.name)
        return f"/tmp/{file.name}"

    def traces(self) -> list[str]:
        """Whatever carries the agent's name, but for the cache that man keeps of what was read."""
        elsewhere = "-not -path '/tmp/*' -not -path '/proc/*' -not -path '/var/cache/man/*'"
        return sorted(self.run("sh", "-c", f"find / -xdev -iname '*axiom*' {elsewhere}").split())


@pytest.fixture(scope="session")
def pristine() -> Path:
    """A minimal Debian, made once."""
    if not (PRISTINE / "usr/bin/python3").exists():
        if shutil.which("debootstrap") is None:
            pytest.skip("debootstrap is not on this machine: apt-get install debootstrap")
        shutil.rmtree(PRISTINE, ignore_errors=True)
        PRISTINE.parent.mkdir(exist_ok=True)
        include = f"--include={','.join(PACKAGES)}"
        line = ["debootstrap", "--variant=minbase", include, SUITE, str(PRISTINE), MIRROR]
        subprocess.run(line, check=True, stdout=subprocess.DEVNULL, timeout=1800)
    return PRISTINE


@pytest.fixture
def root(pristine: Path, tmp_path: Path) -> Iterator[Root]:
    made = tmp_path / "root"
    subprocess.run(["cp", "-a", "--reflink=auto", str(pristine), str(made)], check=True)
    made.joinpath("tmp").chmod(0o1777)
    # apt asks no question, and goes by the packages that are here.
    (made / "etc/apt/apt.conf.d/90test").write_text('APT::Get::Assume-Yes "true";\n')
    yield Root(made)
    shutil.rmtree(made)


def package(kind: str) -> Path:
    """What `make packages` built."""
    found = sorted((ROOT / "dist").glob(f"axiom-client[_-][0-9]*.{kind}"))
    if not found:
        pytest.skip("no packages in dist/: run make packages first")
    return found[-1]


def shown(word: str) -> list[str]:
    """The commands of the volunteers' page in the block that has this word, as root types them.

    Nothing starts services here, and the package lies in the folder that the page speaks of.
    """
    page = ROOT / "docs" / "volunteer.md"
    (found,) = (block for block in blocks(page) if word in block.body)
    lines = [line.removeprefix("sudo ") for line in found.commands if "systemctl" not in line]
    return [f"cd /tmp && {line}" for line in lines]


def newer(folder: Path) -> Path:
    """The same tree as a package of the next version, with a changed configuration file."""
    version = re.search(r"_([\d.]+)-", package("deb").name)
    assert version is not None
    major, minor, patch = version[1].split(".")
    scratch = folder / "unpacked"
    subprocess.run(["dpkg-deb", "-R", str(package("deb")), str(scratch)], check=True)
    control = scratch / "DEBIAN/control"
    changed = f"{major}.{minor}.{int(patch) + 1}"
    control.write_text(
        control.read_text().replace(f"Version: {version[1]}-", f"Version: {changed}-")
    )
    with (scratch / "etc/axiom-client/config.toml").open("a") as config:
        config.write("# a comment that came with the new version\n")
    made = folder / f"axiom-client_{changed}-1_amd64.deb"
    subprocess.run(["dpkg-deb", "--build", "-Zgzip", "-z1", str(scratch), str(made)], check=True)
    return made


def test_installed_used_upgraded_purged(
    root: Root, server: Server, held_walk: Path, tmp_path: Path
) -> None:
    before = root.traces()
    install, attach = shown("apt install")
    root.bring(package("deb"))
    said = root.run("sh", "-c", install)
    assert "sudo axiom-client attach" in said

    # files, user, unit
    assert (
        root.run("getent", "passwd", "axiom-client")
        .strip()
        .endswith(":/var/lib/axiom-client:/usr/sbin/nologin")
    )
    assert root.run("stat", "-c", "%U %a", "/var/lib/axiom-client").strip() == "axiom-client 700"
    assert root.run("dpkg", "--verify", "axiom-client").strip() == ""
    unit = (root.path / "usr/lib/systemd/system/axiom-client.service").read_text()
    assert unit == (ROOT / "axiom_client/service/axiom-client.service").read_text()
    assert "fill idle cores" in root.run("man", "-P", "cat", "axiom-client")
    for shell in (
        "bash-completion/completions",
        "zsh/vendor-completions",
        "fish/vendor_completions.d",
    ):
        assert any((root.path / "usr/share" / shell).iterdir())
    assert "usage" in root.run("/usr/lib/axiom-client/install-torch", "--gpu", code=2)
    installer = "cd /usr/lib/axiom-client && exec bin/python $(echo pip-*.whl)/pip --version"
    assert "pip" in root.run("sh", "-c", installer)

    # a task, completed in the sandbox as the service's user, by a server outside
    server.run("publish", str(FIXTURES / "experiments/short_walk.py"))
    server.run("deploy", "short_walk", "--count", "2")
    root.run("sh", "-c", attach.replace("https://project.example", server.url))
    identity = "/var/lib/axiom-client/identity.json"
    assert root.run("stat", "-c", "%U %a", identity).strip() == "axiom-client 600"
    doctor = root.run("axiom-client", "doctor", "--json")
    assert '"ok": true' in doctor or '"ok":true' in doctor
    root.run("axiom-client", "run", "--until-idle", "--no-display")
    assert server.json("review")["results"] == 2

    # a report that could not be sent, and a changed setting, survive an upgrade
    root.run("axiom-client", "config", "set", "memory.share", "60%")
    server.run("publish", str(_next_version(held_walk)))
    server.run("deploy", "short_walk", "--count", "1")
    agent = subprocess.Popen(root.line("axiom-client", "run", "--no-display"))
    try:
        wait_for(
            "a running task", lambda: '"running"' in root.run("axiom-client", "tasks", "--json")
        )
        server.kill()
        wait_for("an unsent report", lambda: _unsent(root))
        root.run("axiom-client", "stop")
        agent.wait(timeout=WAIT_SECONDS)
    finally:
        agent.kill()
    root.run("dpkg", "--force-confold", "-i", root.bring(newer(tmp_path)))
    assert "60%" in (root.path / "etc/axiom-client/config.toml").read_text()
    assert _unsent(root)
    server.serve()
    root.run("axiom-client", "run", "--until-idle", "--no-display")
    assert server.json("review")["results"] == 1

    # remove keeps what is the owner's, purge keeps nothing
    root.run("apt-get", "remove", "axiom-client")
    assert not (root.path / "usr/lib/axiom-client").exists()
    assert (root.path / "var/lib/axiom-client/journal.sqlite").exists()
    (purge,) = shown("apt purge")
    root.run("sh", "-c", purge)
    assert root.traces() == before
    root.run("getent", "passwd", "axiom-client", code=2)
    root.run("getent", "group", "axiom-client", code=2)


def _next_version(walk: Path) -> Path:
    walk.write_text(walk.read_text().replace('version = "1.0.0"', 'version = "1.1.0"'))
    return walk


def _unsent(root: Root) -> bool:
    time.sleep(0.2)
    return '"reports_unsent": 1' in root.run("axiom-client", "status", "--json")


def test_rpm_installs_and_is_erased(root: Root) -> None:
    """rpm's own tools on a foreign root: files, user, scripts; dependencies cannot be met."""
    if shutil.which("rpm") is None:
        pytest.skip("rpm is not on this machine: apt-get install rpm")
    inside = str(root.path)
    subprocess.run(
        ["rpm", "--root", inside, "--nodeps", "--noplugins", "-i", str(package("rpm"))], check=True
    )
    assert "axiom-client" in root.run("getent", "passwd", "axiom-client")
    assert "attach" in root.run("axiom-client", "--help")
    subprocess.run(["rpm", "--root", inside, "--noplugins", "-e", "axiom-client"], check=True)
    assert not (root.path / "usr/bin/axiom-client").exists()
    assert not (root.path / "usr/lib/axiom-client").exists()
