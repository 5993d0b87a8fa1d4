"""The agent as a systemd service: of the system, under a user of its own, or of one user."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from msgspec import Struct

from axiom_client.errors import ServiceProblem
from axiom_client.folders import one_folder
from axiom_client.service import base
from axiom_client.service.base import NAME, Runner, ServiceStatus, run_checked

UNIT = f"{NAME}.service"
_TEMPLATES = Path(__file__).parent
_PACKAGED_PROGRAM = "/usr/bin/axiom-client"  # the program named in the templates
_HIDDEN_FROM_SERVICES = ("/home", "/root", "/run/user")  # by ProtectHome=yes
_SYSUSERS = f'u {NAME} - "Axiom volunteer computing agent" /var/lib/{NAME}\n'


def render(
    scope: Literal["system", "user"], program: Path, environment: dict[str, str] | None = None
) -> str:
    """The unit file's text. Raises ServiceProblem when the service could not start ``program``."""
    if scope == "system" and program.is_relative_to("/") and _hidden(program):
        raise ServiceProblem(
            f"{program} is in a home folder, which the system service cannot read; install "
            "axiom-client into /opt/axiom-client, or leave out --system"
        )
    text = (_TEMPLATES / ("user.service" if scope == "user" else UNIT)).read_text()
    started = f"ExecStart={_quoted(str(program))} "
    text = text.replace(f"ExecStart={_PACKAGED_PROGRAM} ", started)
    lines = [
        f"Environment={_quoted(f'{key}={value}')}\n" for key, value in (environment or {}).items()
    ]
    return text.replace(started, "".join(lines) + started)


def _hidden(program: Path) -> bool:
    places = {program, program.resolve()}
    return any(place.is_relative_to(home) for place in places for home in _HIDDEN_FROM_SERVICES)


def _quoted(word: str) -> str:
    """A word quoted for a unit file, where % begins a specifier."""
    word = word.replace("%", "%%")
    if not any(letter in word for letter in " \t\"'\\"):
        return word
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'


class SystemdService(Struct, kw_only=True):
    """Controls the unit through systemctl. ``root``: prefix of its paths, for images and tests."""

    scope: Literal["system", "user"]
    program: Path
    root: Path = Path("/")
    runner: Runner = base.run

    @property
    def unit(self) -> Path:
        """The path of the unit file."""
        if self.scope == "system":
            return self.root / "etc/systemd/system" / UNIT
        home = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
        return Path(home) / "systemd/user" / UNIT

    def install(self) -> str:
        """Write the unit, enable and start it. A unit from a package is used as it is."""
        folder = one_folder()
        kept = {"AXIOM_CLIENT_DIR": str(folder)} if folder and self.scope == "user" else {}
        if not self._is_packaged():
            base.write(self.unit, render(self.scope, self.program, kept))
            if self.scope == "system":
                self._make_user()
        self._systemctl("daemon-reload")
        self._systemctl("enable", "--now", UNIT)
        if self.scope == "user":
            return (
                f"installed {self.unit}; it runs while you are logged in; to run it always: "
                "loginctl enable-linger"
            )
        return f"installed {self._where()}; once attached, it starts now and at every boot"

    def uninstall(self) -> str:
        """Stop and disable the unit, and delete what ``install`` wrote."""
        if not self.unit.exists() and not self._is_packaged():
            raise ServiceProblem(f"there is no service to remove: {self.unit} does not exist")
        self._systemctl("disable", "--now", UNIT)
        removed = base.remove(self.unit)
        self._systemctl("daemon-reload")
        if removed:
            return f"removed {self.unit}; the agent's own folders are still there"
        return f"stopped and disabled; {self._where()} stays until its package is removed"

    def status(self) -> ServiceStatus:
        """The unit's state as systemd reports it."""
        properties = "LoadState,ActiveState,SubState,UnitFileState,StatusText"
        shown = run_checked(self.runner, *self._command("show", f"--property={properties}", UNIT))
        found = dict(line.partition("=")[::2] for line in shown.splitlines())
        words = (found.get("ActiveState"), found.get("SubState"), found.get("UnitFileState"))
        detail = " ".join(word for word in words if word)
        return ServiceStatus(
            installed=found.get("LoadState") == "loaded",
            running=found.get("ActiveState") in ("active", "reloading"),
            where=str(self._where()),
            detail=": ".join(part for part in (detail, found.get("StatusText")) if part),
        )

    def restart(self) -> str:
        """Stop the agent, with time for checkpoints, and start it again."""
        self._systemctl("restart", UNIT)
        return f"restarted {UNIT}"

    def _packaged_unit(self) -> Path:
        return self.root / "usr/lib/systemd/system" / UNIT

    def _is_packaged(self) -> bool:
        return self.scope == "system" and self._packaged_unit().exists()

    def _where(self) -> Path:
        return self._packaged_unit() if self._is_packaged() else self.unit

    def _make_user(self) -> None:
        declaration = self.root / "etc/sysusers.d" / f"{NAME}.conf"
        base.write(declaration, _SYSUSERS)
        run_checked(self.runner, "systemd-sysusers", f"--root={self.root}", str(declaration))

    def _command(self, *words: str) -> list[str]:
        return ["systemctl", *(["--user"] if self.scope == "user" else []), "--no-pager", *words]

    def _systemctl(self, *words: str) -> str:
        return run_checked(self.runner, *self._command(*words))
