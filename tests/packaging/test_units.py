"""The systemd units: accepted without warnings, with low exposure, and each exposure explained."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from axiom_client import errors
from axiom_client.service import base, systemd
from axiom_server import errors as server_errors

ROOT = Path(__file__).parents[2]
CLIENT = ROOT / "axiom_client/service/axiom-client.service"
PRIVATE = ("/tmp", "/var/tmp")  # with PrivateTmp=
USER = ROOT / "axiom_client/service/user.service"
SERVER = ROOT / "packaging/systemd/axiom-server.service"
BUBBLEWRAP = ROOT / "packaging/systemd/bubblewrap.conf"
EXPOSURE_MAX = 3.5

pytestmark = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not on this machine"
)


def analyze(*words: str, runtime: Path = Path("/run")) -> str:
    """What systemd-analyze prints, both streams; it must accept."""
    line = ["systemd-analyze", *words]
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(runtime)}  # a person's manager wants one
    done = subprocess.run(
        line, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def exposures(unit: Path) -> dict[str, float]:
    """What systemd holds against the unit, by setting."""
    line = ["systemd-analyze", "security", "--offline=yes", "--json=short", "--no-pager", str(unit)]
    shown = subprocess.run(line, capture_output=True, text=True, timeout=60, check=True).stdout
    return {
        found["name"]: float(found["exposure"])
        for found in json.loads(shown)
        if found["exposure"] is not None and float(found["exposure"]) > 0
    }


@pytest.mark.parametrize("unit", [CLIENT, USER, SERVER], ids=lambda path: path.name)
def test_systemd_accepts_it_silently(unit: Path, tmp_path: Path) -> None:
    """With a program that exists here; the file must be named as it is installed."""
    copy = tmp_path / unit.name
    copy.write_text(re.sub(r"(?m)^ExecStart=\S+", "ExecStart=/bin/true", unit.read_text()))
    scope = "--user" if unit == USER else "--system"
    assert analyze("verify", "--man=no", scope, str(copy), runtime=tmp_path).strip() == ""


@pytest.mark.parametrize("unit", [CLIENT, SERVER], ids=lambda path: path.name)
def test_exposure_is_low_and_explained(unit: Path) -> None:
    threshold = f"--threshold={EXPOSURE_MAX * 10:.0f}"
    analyze("security", "--offline=yes", "--no-pager", threshold, str(unit))
    comments = "\n".join(re.findall(r"(?m)^#.*", unit.read_text()))
    for name in exposures(unit):
        narrow = re.findall(r"@\w+|AF_\w+", name.replace("(", ""))
        word = narrow[0] if narrow else name.partition("=")[0]
        assert word in comments, f"{name} is left open unexplained"


def test_bubblewrap_drop_in_stays_under_the_limit(tmp_path: Path) -> None:
    merged = tmp_path / "axiom-client.service"
    before, install, after = CLIENT.read_text().partition("[Install]")
    settings = BUBBLEWRAP.read_text().replace("[Service]", "")
    merged.write_text(before + settings + install + after)
    threshold = f"--threshold={EXPOSURE_MAX * 10:.0f}"
    analyze("security", "--offline=yes", "--no-pager", threshold, str(merged))


def prevented(unit: Path) -> set[int]:
    line = re.search(r"(?m)^RestartPreventExitStatus=(.*)$", unit.read_text())
    assert line is not None
    return {int(code) for code in line[1].split()}


def test_exit_codes_that_mean_do_not_restart_are_the_agents() -> None:
    hopeless = (
        errors.ConfigProblem, errors.NotAttached, errors.AlreadyRunning, errors.BadAddress,
        errors.HostRefused, errors.VersionMismatch, errors.BundlesNotTrusted, errors.JournalBroken,
    )  # fmt: skip
    usage = 2  # what typer ends with when the command line makes no sense
    assert prevented(CLIENT) == {usage, *(error.exit_code for error in hopeless)}
    assert errors.DiskFull.exit_code not in prevented(CLIENT)
    assert errors.ServerNotThere.exit_code not in prevented(CLIENT)


def test_exit_codes_that_mean_do_not_restart_are_the_servers() -> None:
    hopeless = (server_errors.Usage, server_errors.NotInitialised, server_errors.ConfigWrong)
    assert prevented(SERVER) == {error.exit_code for error in hopeless}


def test_units_agree_with_the_figures_of_the_other_systems() -> None:
    for unit in (CLIENT, USER):
        text = unit.read_text()
        assert f"TimeoutStopSec={base.STOP_SECONDS}\n" in text
        assert f"RestartSec={base.RESTART_SECONDS}\n" in text
        assert "KillMode=mixed\n" in text
    assert systemd.render("system", Path("/opt/a/axiom-client")).count("ExecStart=") == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="mount namespaces are root's")
@pytest.mark.skipif(
    any(Path(sys.executable).is_relative_to(folder) for folder in PRIVATE),
    reason="PrivateTmp hides a checkout that is in /tmp",
)
def test_the_sandbox_passes_its_test_in_the_units_file_system() -> None:
    """What ProtectSystem=strict, PrivateTmp= and ProtectProc= make of it."""
    settings = re.findall(r"(?m)^(\w+)=(.*)", CLIENT.read_text())
    assert ("ProtectSystem", "strict") in settings
    mounts = ["mount -o remount,bind,ro /"]
    if ("PrivateTmp", "yes") in settings:
        mounts = [*(f"mount -t tmpfs tmpfs {name}" for name in PRIVATE), *mounts]
    if ("ProtectProc", "invisible") in settings:
        # Members of a group see all processes; root is in that of number 0.
        mounts.append("mount -t proc -o hidepid=invisible,gid=65533 proc /proc")
    program = "from axiom_client.sandbox.selftest import self_test; print(self_test())"
    line = " && ".join([*mounts, f"exec {sys.executable} -P -c '{program}'"])
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", line],
        cwd="/", capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    if "unshare failed" in done.stderr or "permission denied" in done.stderr.lower():
        pytest.skip("no mount namespaces here")
    assert "ok=True" in done.stdout, done.stdout + done.stderr
