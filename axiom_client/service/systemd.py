"""A systemd unit: the machine's, under a user of its own, or one person's."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from msgspec import Struct

from axiom_client.errors import ServiceProblem
from axiom_client.service import base
from axiom_client.service.base import NAME, Runner, ServiceStatus, must

UNIT = f"{NAME}.service"
_TEMPLATES = Path(__file__).parent
_PACKAGED_PROGRAM = "/usr/bin/axiom-client"  # what the templates start
_HIDDEN_FROM_SERVICES = ("/home", "/root", "/run/user")  # by ProtectHome=yes
_SYSUSERS = f'u {NAME} - "Axiom volunteer computing agent" /var/lib/{NAME}\n'


def render(
    scope: Literal["system", "user"], program: Path, environment: dict[str, str] | None = None
) -> str:
    """The unit's text. Raises ServiceProblem when a service could not start that program."""
    if scope == "system" and program.is_relative_to("/") and _hidden(program):
        raise ServiceProblem(
            f"{program} lies in a home, which the service does not see; install axiom-client into "
            "/opt/axiom-client, or leave out --system"
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
    """One word of a unit file: % is systemd's, and spaces and quotes need quoting."""
    word = word.replace("%", "%%")
    if not any(letter in word for letter in " \t\"'\\"):
        return word
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'


class SystemdService(Struct, kw_only=True):
    """The unit and systemctl. ``root`` stands before system paths, for images and tests."""

    scope: Literal["system", "user"]
    program: Path
    root: Path = Path("/")
    runner: Runner = base.run

    @property
    def unit(self) -> Path:
        """Where the unit file goes."""
        if self.scope == "system":
            return self.root / "etc/systemd/system" / UNIT
        home = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
        return Path(home) / "systemd/user" / UNIT

    def install(self) -> str:
        """Write, enable, start; a packaged unit is used as it is."""
        kept = {"AXIOM_CLIENT_DIR": os.environ["AXIOM_CLIENT_DIR"]} if self._one_folder() else {}
        if not self._is_packaged():
            base.write(self.unit, render(self.scope, self.program, kept))
            if self.scope == "system":
                self._make_user()
        self._systemctl("daemon-reload")
        self._systemctl("enable", "--now", UNIT)
        if self.scope == "user":
            return (
                f"installed {self.unit}; it runs while you are logged in, and always after: "
                "loginctl enable-linger"
            )
        return f"installed {self._where()}; it starts now and at every boot once it is attached"

    def uninstall(self) -> str:
        """Stop, disable, delete what ``install`` wrote."""
        if not self.unit.exists() and not self._is_packaged():
            raise ServiceProblem(f"there is no service to remove: {self.unit} does not exist")
        self._systemctl("disable", "--now", UNIT)
        removed = base.remove(self.unit)
        self._systemctl("daemon-reload")
        if removed:
            return f"removed {self.unit}; the agent's own folders are still there"
        return f"stopped and disabled; {self._where()} belongs to the package, which may be removed"

    def status(self) -> ServiceStatus:
        """What systemd says."""
        properties = "LoadState,ActiveState,SubState,UnitFileState,StatusText"
        shown = must(self.runner, *self._command("show", f"--property={properties}", UNIT))
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
        """Stop with time for checkpoints, start."""
        self._systemctl("restart", UNIT)
        return f"restarted {UNIT}"

    def _one_folder(self) -> bool:
        return self.scope == "user" and "AXIOM_CLIENT_DIR" in os.environ

    def _packaged_unit(self) -> Path:
        return self.root / "usr/lib/systemd/system" / UNIT

    def _is_packaged(self) -> bool:
        return self.scope == "system" and self._packaged_unit().exists()

    def _where(self) -> Path:
        return self._packaged_unit() if self._is_packaged() else self.unit

    def _make_user(self) -> None:
        declaration = self.root / "etc/sysusers.d" / f"{NAME}.conf"
        base.write(declaration, _SYSUSERS)
        must(self.runner, "systemd-sysusers", f"--root={self.root}", str(declaration))

    def _command(self, *words: str) -> list[str]:
        return ["systemctl", *(["--user"] if self.scope == "user" else []), "--no-pager", *words]

    def _systemctl(self, *words: str) -> str:
        return must(self.runner, *self._command(*words))
