"""A volunteer's commands on the virtual machine, and the state of the service there."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from checks import require
from guest import PATIENCE, Guest
from project import Project

UNIT = "axiom-client"
PAYLOAD = "/mnt"
#: A task of the agent under emulation takes this long to start and report, at worst.
TASK_SECONDS_MAX = 400.0
#: One request to the agent, as axiom_client/control sends it.
CONTROL = """
import socket, sys
connection = socket.socket(socket.AF_UNIX)
connection.settimeout(30)
connection.connect("/var/lib/axiom-client/control.sock")
connection.sendall(("{\\"do\\": \\"%s\\"}\\n" % sys.argv[1]).encode())
print(connection.makefile().readline())
"""
EXIT_NO_ANSWER = 12
ATTACH_RETRIES = 4  # emulated on a busy machine, a TLS handshake can take that long


@dataclass(kw_only=True)
class Volunteer:
    """One guest with the agent's package, and the project it works for."""

    guest: Guest
    project: Project

    def mount_payload(self) -> None:
        """Mount the guest's second disk, which holds the packages."""
        self.guest.run(f"mountpoint -q {PAYLOAD} || mount -o ro /dev/vdb {PAYLOAD}")

    def install(self, package: str) -> str:
        """Install or upgrade as the manual says; returns apt's output.

        Without dpkg's fsync of each of 4,000 files: the power stays on here.
        """
        self.mount_payload()
        line = (
            f"DEBIAN_FRONTEND=noninteractive AXIOM_DRAIN_SECONDS=3 "
            f"apt-get install -y -q -o Dpkg::Options::=--force-unsafe-io {PAYLOAD}/{package}"
        )
        said = self.guest.run(line, timeout=900).out
        if PATIENCE > 1:  # the unit's own time is for computers, not for an emulator that waits
            self._write_drop_in("patience", f"TimeoutStartSec={120 * PATIENCE:.0f}")
        return said

    def trust_project(self) -> None:
        """Add the project's certificate to those that the system trusts.

        As update-ca-certificates does, which takes minutes here to read all the others again.
        """
        self.guest.write("/etc/ssl/certs/project.pem", self.project.certificate.read_text())
        self.guest.run(
            "cd /etc/ssl/certs && cat project.pem >> ca-certificates.crt && "
            "ln -sf project.pem $(openssl x509 -noout -hash -in project.pem).0"
        )

    def attach(self) -> None:
        """Join the project, again if the handshake took longer than the agent's 15 seconds."""
        line = f"axiom-client attach {self.project.url} --user volunteer"
        done = self.guest.run(line, check=False)
        for _ in range(ATTACH_RETRIES):
            if done.code != EXIT_NO_ANSWER:
                break
            done = self.guest.run(line, check=False)
        require(done.code == 0, done.out + done.error)

    def status(self) -> dict[str, Any]:
        """What ``axiom-client status --json`` says; empty while the agent does not answer."""
        found: dict[str, Any] = self.control("snapshot").get("snapshot") or {}
        return found

    def sync(self) -> None:
        """Let the agent contact the server now, as ``axiom-client sync`` does, if it runs."""
        self.control("sync")

    def control(self, command: str) -> dict[str, Any]:
        """The agent's answer at its control socket; empty while there is none.

        The command line asks the same, but under emulation it takes ten seconds to start.
        """
        done = self.guest.run(f"python3 -I -S -c '{CONTROL}' {command}", check=False)
        answer: dict[str, Any] = json.loads(done.out) if done.code == 0 else {}
        return answer

    def running(self) -> int:
        """How many tasks run now."""
        return int(self.status().get("tasks_running", 0))

    def unit(self, name: str) -> str:
        """A property of the service, as systemd shows it."""
        return self.guest.run(f"systemctl show -P {name} {UNIT}").out.strip()

    def active(self) -> bool:
        """Whether the service has said that it is ready."""
        return self.unit("ActiveState") == "active"

    def start(self) -> None:
        """Start the service and wait until it is ready."""
        self.guest.run(f"systemctl reset-failed {UNIT}; systemctl start {UNIT}")
        require(self.active(), self.unit("ActiveState"))

    def processes(self) -> list[str]:
        """The command lines of all processes of the service's user."""
        return self.guest.run(f"ps -o args= -u {UNIT} || true").out.splitlines()

    def wait_until_running(self, count: int = 1) -> None:
        """Until this many tasks run."""
        self.guest.wait_for(
            f"{count} running tasks", lambda: self.running() >= count, TASK_SECONDS_MAX
        )

    def wait_until_reported(self, experiment: str, count: int) -> None:
        """Until the server has this many results."""
        self.guest.wait_for(
            f"{count} results of {experiment}",
            lambda: self.project.reported(experiment) >= count, TASK_SECONDS_MAX,
        )  # fmt: skip

    def work(self, name: str, pause_seconds: float, count: int = 1) -> None:
        """Publish and deploy a walk that pauses this long, and wait until it runs here."""
        self.project.publish_walk(name, pause_seconds)
        self.project.deploy(name, count)
        self.sync()
        self.wait_until_running(count)

    def drop_in(self, text: str) -> None:
        """Change the unit for a check, as ``systemctl edit`` would; empty text undoes it."""
        self._write_drop_in("check", text)

    def journal(self, *options: str) -> str:
        """The service's lines in the system's journal."""
        return self.guest.run(f"journalctl -q --no-pager -u {UNIT} {' '.join(options)}").out

    def _write_drop_in(self, name: str, text: str) -> None:
        folder = f"/etc/systemd/system/{UNIT}.service.d"
        self.guest.run(f"mkdir -p {folder}")
        self.guest.write(f"{folder}/{name}.conf", f"[Service]\n{text}\n")
        self.guest.run("systemctl daemon-reload")
