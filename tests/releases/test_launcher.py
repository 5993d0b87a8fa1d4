"""The launcher with real processes: releases that do one thing, and the installed agent."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from axiom_client.decide.update import Release, stage
from axiom_client.errors import AlreadyRunning, NotAttached
from axiom_client.folders import Folders
from axiom_client.releases.folder import ReleaseFolder
from axiom_client.releases.link import VARIABLE
from axiom_client.releases.posix_launcher import command
from axiom_client.releases.supported import why_unsupported
from axiom_client.releases.unpack import unpack
from tests.support.processes import wait_for
from tests.support.release_archive import write_zip

LINK = f"import os, socket, sys, time; link = socket.socket(fileno=int(os.environ['{VARIABLE}']))\n"
WORKS = LINK + "link.sendall(b'healthy 0.3.0\\n')\n"
CRASHES = LINK + "sys.exit('a bug')\n"
HANGS = LINK + "time.sleep(600)\n"
LIES = LINK + "link.sendall(b'healthy 0.2.9\\n'); time.sleep(600)\n"  # another version's health


class Host:
    """The folders of one host, and the launcher in them."""

    def __init__(self, folder: Path) -> None:
        self.path = folder
        state = folder / "state"
        folders = Folders(config=folder / "config", state=state, cache=folder / "cache")
        self.releases = ReleaseFolder(folders.releases)

    def add(self, version: str, main: str) -> None:
        """Stage a release whose agent is this script."""
        files = {"axiom_client/__init__.py": b"", "axiom_client/__main__.py": main.encode()}
        archive = write_zip(self.path / "a.zip", files)
        unpack(self.releases, archive, Release(version=version, sha256="0" * 64, length=1))
        self.releases.change_record(lambda record: stage(record, version))

    def start(self, trial_seconds: float = 60.0, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            command(trial_seconds, ["--no-display"]),
            env={**os.environ, "AXIOM_CLIENT_DIR": str(self.path), **environment},
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def run(self, trial_seconds: float = 60.0) -> tuple[int, str]:
        """Exit code and standard error of the launcher."""
        process = self.start(trial_seconds)
        _, err = process.communicate(timeout=300)
        return process.returncode, err


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_without_a_release_the_installed_agent_runs(host: Host) -> None:
    code, err = host.run()
    assert code == NotAttached.exit_code
    assert "attach" in err


def test_a_release_that_works_is_kept(host: Host) -> None:
    host.add("0.3.0", WORKS)
    assert host.run()[0] == 0
    assert host.releases.record().current == "0.3.0"
    assert host.releases.record().staged == ""


@pytest.mark.parametrize(
    ("main", "seconds", "why"),
    [(CRASHES, 60.0, "exit code 1"), (HANGS, 1.0, "within 1 s"), (LIES, 1.0, "within 1 s")],
)
def test_a_release_that_does_not_work_is_undone(
    host: Host, main: str, seconds: float, why: str
) -> None:
    host.add("0.3.0", main)
    code, err = host.run(seconds)
    assert code == NotAttached.exit_code  # the installed agent ran
    record = host.releases.record()
    assert record.undone is not None
    assert why in record.undone.why
    assert "0.3.0 is undone" in err
    assert (record.current, record.staged) == ("", "")


def test_a_release_that_was_changed_on_the_disk_does_not_run(host: Host) -> None:
    ran = host.path / "ran"
    host.add("0.3.0", WORKS)
    main = host.releases.libraries("0.3.0") / "axiom_client" / "__main__.py"
    main.write_text(f"open({str(ran)!r}, 'w')\n")
    assert host.run()[0] == NotAttached.exit_code
    assert not ran.exists()
    record = host.releases.record()
    assert record.undone is not None
    assert "was changed" in record.undone.why


def test_a_stop_is_passed_on_and_is_no_failure(host: Host) -> None:
    started = host.path / "started"
    host.add("0.3.0", LINK + f"open({str(started)!r}, 'w'); time.sleep(600)\n")
    process = host.start()
    wait_for("the release to start", started.exists)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    record = host.releases.record()
    assert (record.staged, record.starts, record.failures) == ("0.3.0", 1, {})


def test_one_launcher_for_each_folder(host: Host) -> None:
    host.add("0.3.0", HANGS)
    with host.releases.lock():
        code, err = host.run()
    assert code == AlreadyRunning.exit_code
    assert "another agent" in err
    assert host.releases.record().starts == 0  # nothing was tried


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """What systemd listens on."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "n"))
        listening.settimeout(60)
        yield listening


def test_the_service_manager_hears_the_agent_but_not_that_it_ends_for_another_version(
    host: Host, manager: socket.socket
) -> None:
    tell = "notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n"
    tell += "notify.connect(os.environ['NOTIFY_SOCKET'])\n"
    tell += "assert 'WATCHDOG_PID' not in os.environ\n"
    tell += "notify.send(b'STOPPING=1\\nSTATUS=from the agent')\n"
    host.add("0.3.0", WORKS + tell)
    process = host.start(NOTIFY_SOCKET=manager.getsockname(), WATCHDOG_PID="1")
    heard = [manager.recv(4096)]
    while b"STATUS=from the agent" not in heard[-1]:
        heard.append(manager.recv(4096))
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert b"READY=1" in heard[0]  # the launcher's own, while the release is on trial
    assert not any(b"STOPPING" in message for message in heard)


def test_which_installations_update_themselves() -> None:
    inside = "lib/python3.11/site-packages/axiom_client/releases/supported.py"
    assert why_unsupported(Path("/home/ada/.local/pipx/venvs/axiom", inside), "linux") == ""
    assert why_unsupported(Path("/usr/local", inside), "linux") == ""
    packaged = why_unsupported(Path("/usr/lib/axiom-client", inside), "linux")
    assert "package manager" in packaged
    assert "Windows" in why_unsupported(Path("C:/axiom", inside), "win32")
