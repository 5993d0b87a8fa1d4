"""Installing the service: the files written, and the commands run."""

from __future__ import annotations

import configparser
import os
import plistlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from axiom_client.cli.service import find_service
from axiom_client.errors import ServiceProblem
from axiom_client.service import base, launchd, systemd, windows
from axiom_client.service.base import Completed
from axiom_client.service.launchd import LaunchdService
from axiom_client.service.systemd import SystemdService
from axiom_client.service.windows import Supervisor, WindowsService

PROGRAM = Path("/opt/axiom-client/bin/axiom-client")


class System:
    """Replaces systemctl or launchctl: records the commands, returns the given answers."""

    def __init__(self, answers: dict[str, Completed] | None = None) -> None:
        self.asked: list[str] = []
        self._answers = answers or {}

    def __call__(self, command: Sequence[str]) -> Completed:
        line = " ".join(command)
        self.asked.append(line)
        for part, answer in self._answers.items():
            if part in line:
                return answer
        return Completed(code=0)


def parsed(unit: str) -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser(strict=False, delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string(unit)
    return parser


# --- systemd --------------------------------------------------------------------------------------


def test_system_unit_starts_the_program_it_was_installed_by(tmp_path: Path) -> None:
    system = System()
    service = SystemdService(scope="system", program=PROGRAM, root=tmp_path, runner=system)
    assert "at every boot" in service.install()
    unit = parsed((tmp_path / "etc/systemd/system/axiom-client.service").read_text())
    assert unit["Service"]["ExecStart"] == f"{PROGRAM} run --no-display"
    assert unit["Service"]["User"] == "axiom-client"
    declared = (tmp_path / "etc/sysusers.d/axiom-client.conf").read_text()
    assert declared.startswith("u axiom-client - ")
    assert system.asked[1:] == [
        "systemctl --no-pager daemon-reload",
        "systemctl --no-pager enable --now axiom-client.service",
    ]


def test_packaged_unit_is_used_as_it_is(tmp_path: Path) -> None:
    packaged = tmp_path / "usr/lib/systemd/system/axiom-client.service"
    packaged.parent.mkdir(parents=True)
    packaged.write_text("[Unit]\n")
    service = SystemdService(scope="system", program=PROGRAM, root=tmp_path, runner=System())
    service.install()
    assert not service.unit.exists()
    assert "stays until its package is removed" in service.uninstall()
    assert packaged.exists()


@pytest.mark.parametrize(
    "home", ["/home/ada/venv/bin/axiom-client", "/root/.local/bin/axiom-client"]
)
def test_program_in_a_home_is_no_system_service(home: str) -> None:
    with pytest.raises(ServiceProblem, match="/opt/axiom-client"):
        systemd.render("system", Path(home))
    assert home in systemd.render("user", Path(home))


def test_user_unit_lands_in_the_configuration_folder_and_leaves_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("AXIOM_CLIENT_DIR", "/srv/100% mine")
    system = System()
    service = SystemdService(scope="user", program=Path("/a b/axiom-client"), runner=system)
    assert "enable-linger" in service.install()
    text = (tmp_path / "systemd/user/axiom-client.service").read_text()
    assert 'ExecStart="/a b/axiom-client" run --no-display' in text
    assert 'Environment="AXIOM_CLIENT_DIR=/srv/100%% mine"' in text
    assert all("--user" in line for line in system.asked)
    assert "removed" in service.uninstall()
    assert not service.unit.exists()
    with pytest.raises(ServiceProblem, match="no service to remove"):
        service.uninstall()


def test_status_reads_systemctl_show() -> None:
    shown = (
        "LoadState=loaded\nActiveState=active\nSubState=running\n"
        "UnitFileState=enabled\nStatusText=running: 4 tasks\n"
    )
    system = System({"show": Completed(code=0, stdout=shown)})
    found = SystemdService(scope="system", program=PROGRAM, runner=system).status()
    assert (found.installed, found.running) == (True, True)
    assert found.detail == "active running enabled: running: 4 tasks"


def test_refusal_of_systemctl_is_one_line_with_its_last_word() -> None:
    said = "Some text\nFailed to connect to bus: No medium found\n"
    system = System({"restart": Completed(code=1, stderr=said)})
    with pytest.raises(ServiceProblem, match="No medium found") as refused:
        SystemdService(scope="user", program=PROGRAM, runner=system).restart()
    assert "\n" not in str(refused.value)


def test_missing_program_says_what_to_do() -> None:
    with pytest.raises(ServiceProblem, match="axiom-client run"):
        base.run(["no-such-service-manager"])


# --- launchd --------------------------------------------------------------------------------------


def test_launch_agent_is_written_loaded_and_removed(tmp_path: Path) -> None:
    system = System()
    service = LaunchdService(scope="user", program=PROGRAM, home=tmp_path, uid=501, runner=system)
    service.install()
    job = plistlib.loads((tmp_path / "Library/LaunchAgents/org.axiom.client.plist").read_bytes())
    assert job["ProgramArguments"] == [str(PROGRAM), "run", "--no-display"]
    assert job["KeepAlive"] == {"SuccessfulExit": False}
    assert job["ExitTimeOut"] == base.STOP_SECONDS
    assert system.asked[-1].startswith("launchctl bootstrap gui/501 ")
    service.uninstall()
    assert not service.file.exists()
    assert system.asked[-1] == "launchctl bootout gui/501/org.axiom.client"


def test_launch_daemon_has_a_folder_of_the_machines_own() -> None:
    job = launchd.job("system", PROGRAM, Path("/Library/Logs"))
    assert job["EnvironmentVariables"]["AXIOM_CLIENT_DIR"].startswith("/Library/")
    assert job["UserName"] != "root"


def test_launchd_status(tmp_path: Path) -> None:
    printed = "gui/501/org.axiom.client = {\n\tstate = running\n\tpid = 77\n}\n"
    system = System({"print": Completed(code=0, stdout=printed)})
    service = LaunchdService(scope="user", program=PROGRAM, home=tmp_path, uid=501, runner=system)
    assert service.status().running
    gone = System({"print": Completed(code=113, stderr="Could not find service")})
    absent = LaunchdService(scope="user", program=PROGRAM, home=tmp_path, uid=501, runner=gone)
    assert not absent.status().running


@pytest.mark.parametrize("step", ["enable", "bootstrap", "kickstart"])
def test_refusal_of_launchd_is_one_line(tmp_path: Path, step: str) -> None:
    """launchctl exits with 5 and such a line when it cannot load a job."""
    said = "Warning: something\nBootstrap failed: 5: Input/output error\n"
    system = System({f"launchctl {step}": Completed(code=5, stderr=said)})
    service = LaunchdService(scope="user", program=PROGRAM, home=tmp_path, uid=501, runner=system)
    with pytest.raises(ServiceProblem, match="failed: Bootstrap failed: 5") as refused:
        service.restart() if step == "kickstart" else service.install()
    assert "\n" not in str(refused.value)


# --- Windows --------------------------------------------------------------------------------------


class Manager:
    """Replaces Windows' service manager."""

    def __init__(self) -> None:
        self.services: dict[str, str] = {}
        self.commands: list[str] = []

    def create(self, name: str, display: str, description: str, command: str) -> None:
        if name in self.services:
            raise OSError(1073, "The specified service already exists.")
        self.services[name] = "stopped"
        self.commands.append(command)

    def delete(self, name: str) -> None:
        del self.services[name]

    def query(self, name: str) -> str | None:
        return self.services.get(name)

    def start(self, name: str) -> None:
        self.services[name] = "running"

    def stop(self, name: str) -> None:
        self.services[name] = "stopped"


def test_windows_service_from_install_to_uninstall() -> None:
    manager = Manager()
    python = Path("C:/Program Files/axiom/python.exe")
    service = WindowsService(manager=manager, python=python)
    assert not service.status().installed
    service.install()
    assert manager.commands[0].startswith(f'"{python}" -P -m ')
    assert service.status().running
    with pytest.raises(ServiceProblem, match=r"already exists.*administrator"):
        service.install()
    service.restart()
    assert service.status().running
    service.uninstall()
    with pytest.raises(ServiceProblem, match="no service"):
        service.uninstall()


def test_windows_paths_are_the_machines() -> None:
    folder = windows.data_folder({"PROGRAMDATA": "D:\\Data"})
    assert str(folder).startswith("D:\\Data")
    assert folder.name.endswith("axiom-client")


def guardian(folder: Path, code: str, stop: Callable[[int], bool]) -> tuple[Supervisor, list[str]]:
    told: list[str] = []
    made = Supervisor(
        command=[sys.executable, "-c", code], folder=folder, wait_for_stop=stop, log=told.append
    )
    return made, told


def test_guardian_hands_on_how_the_agent_ended(tmp_path: Path) -> None:
    check = "import os, sys; sys.exit(16 if os.environ['AXIOM_CLIENT_DIR'] == sys.argv[1] else 1)"
    made, told = guardian(tmp_path / "data", check, lambda _: False)
    made.command.append(str(tmp_path / "data"))
    assert made.run() == 16
    assert not windows.should_restart(16)
    assert windows.should_restart(1)
    assert "code 16" in told[-1]


def test_guardian_stops_the_agent_politely(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    stopped = tmp_path / "stopped"
    code = (
        "import pathlib, signal, sys, time\n"
        "def stop(*_):\n"
        f"    pathlib.Path({str(stopped)!r}).touch()\n"
        "    sys.exit()\n"
        "signal.signal(signal.SIGTERM, stop)\n"
        f"pathlib.Path({str(ready)!r}).touch()\n"
        "time.sleep(120)\n"
    )
    made, told = guardian(tmp_path, code, lambda _: ready.exists())
    assert made.run() == 0
    assert stopped.exists()
    assert told[-1] == "the agent stopped"


def test_guardian_asks_the_agent_by_its_own_command(tmp_path: Path) -> None:
    ready, asked = tmp_path / "ready", tmp_path / "asked"
    code = (
        "import pathlib, time\n"
        f"pathlib.Path({str(ready)!r}).touch()\n"
        f"while not pathlib.Path({str(asked)!r}).exists(): time.sleep(0.05)\n"
    )
    made, told = guardian(tmp_path, code, lambda _: ready.exists())
    touch = (
        "import os, pathlib; assert os.environ['AXIOM_CLIENT_DIR']; "
        f"pathlib.Path({str(asked)!r}).touch()"
    )
    made.stop_command = [sys.executable, "-c", touch]
    assert made.run() == 0
    assert told[-1] == "the agent stopped"


def test_guardian_ends_an_agent_that_cannot_be_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(windows, "STOP_SECONDS", 0.2)

    def refuse(agent: object, number: int) -> None:
        raise OSError(6, "The handle is invalid")  # a service has no console

    monkeypatch.setattr("subprocess.Popen.send_signal", refuse)
    made, told = guardian(tmp_path, "import time; time.sleep(120)", lambda _: True)
    made.stop_command = [sys.executable, "-c", "raise SystemExit(1)"]
    if sys.platform != "win32":  # where kill() is send_signal too
        monkeypatch.setattr("subprocess.Popen.kill", lambda agent: os.kill(agent.pid, 9))
    assert made.run() == 0
    assert "cannot be asked to stop" in told[-2]
    assert "was ended" in told[-1]


# --- all systems ----------------------------------------------------------------------------------


def test_each_system_has_its_own_service() -> None:
    assert isinstance(find_service(True, "linux"), SystemdService)
    assert isinstance(find_service(False, "darwin"), LaunchdService)
    with pytest.raises(ServiceProblem, match="pywin32"):
        find_service(False, "win32")
    with pytest.raises(ServiceProblem, match="axiom-client run"):
        find_service(False, "sunos5")


def test_final_exit_codes_are_the_same_everywhere() -> None:
    for name in ("axiom-client.service", "user.service"):
        unit = parsed((Path(systemd.__file__).parent / name).read_text())
        listed = {int(code) for code in unit["Service"]["RestartPreventExitStatus"].split()}
        assert listed | {0} == set(windows.FINAL_EXIT_CODES)
