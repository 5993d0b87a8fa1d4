"""A volunteer's commands on the virtual machine, and the state of the service there."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from checks import require
from guest import Guest
from project import Project

UNIT = "axiom-client"
PAYLOAD = "/mnt"
#: A task of the agent under emulation takes this long to start and report, at worst.
TASK_SECONDS_MAX = 400.0
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
            f"DEBIAN_FRONTEND=noninteractive AXIOM_DRAIN_SECONDS=10 "
            f"apt-get install -y -q -o Dpkg::Options::=--force-unsafe-io {PAYLOAD}/{package}"
        )
        return self.guest.run(line, timeout=900).out

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
        done = self.guest.run("axiom-client status --json", check=False)
        if done.code:
            return {}
        found: dict[str, Any] = json.loads(done.out)
        return found

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
        self.guest.run("axiom-client sync", check=False)
        self.wait_until_running(count)

    def drop_in(self, text: str) -> None:
        """Change the unit for a check, as ``systemctl edit`` would; empty text undoes it."""
        folder = f"/etc/systemd/system/{UNIT}.service.d"
        self.guest.run(f"mkdir -p {folder}; rm -f {folder}/check.conf")
        if text:
            self.guest.write(f"{folder}/check.conf", f"[Service]\n{text}\n")
        self.guest.run("systemctl daemon-reload")

    def journal(self, *options: str) -> str:
        """The service's lines in the system's journal."""
        return self.guest.run(f"journalctl -q --no-pager -u {UNIT} {' '.join(options)}").out
