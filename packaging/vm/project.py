"""A real project on this host's loopback, which a virtual machine reaches by https at 10.0.2.2.

At that address, qemu's user network forwards to the loopback of its host.
"""

from __future__ import annotations

import datetime
import ipaddress
import json
import os
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from axiom_server.project_folder import ProjectFolder

ROOT = Path(__file__).resolve().parents[2]
SHORT_WALK = ROOT / "tests/fixtures/experiments/short_walk.py"
SEEN_BY_GUEST = "10.0.2.2"
READY_SECONDS_MAX = 120.0
REPORTED = """
SELECT count(*) FROM tasks JOIN experiments USING (experiment_id)
WHERE name = %s AND state IN ('reported', 'reviewed')"""


@dataclass(kw_only=True)
class Project:
    """A served project in a folder, and the commands of its staff."""

    folder: Path
    port: int = field(default_factory=lambda: _free_port())
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    #: Number of workunits deployed, by experiment.
    deployed: dict[str, int] = field(default_factory=dict, init=False)

    @property
    def url(self) -> str:
        """The address that the guest attaches to."""
        return f"https://{SEEN_BY_GUEST}:{self.port}"

    @property
    def certificate(self) -> Path:
        """The certificate that the guest must trust (PEM)."""
        return self.folder.parent / "project.crt"

    def serve(self) -> None:
        """Serve the project of the folder until `stop`; create it if there is none."""
        key = self.folder.parent / "project.key"
        if self.folder.exists():
            self._restore()
        else:
            self.staff("init", str(self.folder))
            _write_certificate(self.certificate, key)
            self._save()
        line = self._line(
            "serve",
            "--port",
            str(self.port),
            "--certificate",
            str(self.certificate),
            "--key",
            str(key),
        )
        with (self.folder.parent / "server.log").open("ab") as log:
            self.process = subprocess.Popen(line, env=_environment(), stdout=log, stderr=log)
        deadline = time.monotonic() + READY_SECONDS_MAX
        while not self._ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the server is not ready: see {self.folder.parent}/server.log")
            time.sleep(0.5)

    def publish_walk(self, name: str, pause_seconds: float) -> None:
        """Publish the tests' walk under a name of its own; each run pauses this long in all."""
        source = SHORT_WALK.read_text().replace('"short_walk"', f'"{name}"')
        source = source.replace("default = 0.0,", f"default = {pause_seconds},")
        script = self.folder.parent / f"{name}.py"
        script.write_text(source)
        self.publish(script)

    def publish(self, script: Path) -> None:
        """Publish without the dry run, because the guest is under test and not the script."""
        self.staff("publish", "--skip", "dry-run", str(script))

    def deploy(self, name: str, count: int) -> None:
        """New workunits for any host."""
        self.staff("deploy", name, "--count", str(count))
        self.deployed[name] = self.deployed.get(name, 0) + count
        self._save()

    def tasks(self, experiment: str | None = None) -> list[dict[str, Any]]:
        """All tasks that were ever given out, the newest first."""
        listed = json.loads(self.staff("tasks", "--most", "10000", "--json"))
        return [
            task for task in listed
            if experiment is None or task["experiment"].partition("@")[0] == experiment
        ]  # fmt: skip

    def reported(self, experiment: str) -> int:
        """How many results of an experiment have come back.

        Asked every few seconds: a command would take too much time from the guest.
        """
        project = ProjectFolder(self.folder)
        with project.database(schema=False) as conninfo, psycopg.connect(conninfo) as connection:
            row = connection.execute(REPORTED, (experiment,)).fetchone()
        return row[0] if row else 0

    def staff(self, *words: str) -> str:
        """Run a command of axiom-server; returns its output."""
        done = subprocess.run(
            self._line(*words), env=_environment(), capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"axiom-server {' '.join(words)}: {done.stdout}{done.stderr}")
        return done.stdout

    def stop(self) -> None:
        """End the server."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(60)

    def _save(self) -> None:
        """Keep what the next run on this folder must know: the guest is attached to this port."""
        self._record.write_text(json.dumps({"port": self.port, "deployed": self.deployed}))

    def _restore(self) -> None:
        kept = json.loads(self._record.read_text())
        self.port, self.deployed = kept["port"], kept["deployed"]

    @property
    def _record(self) -> Path:
        return self.folder.parent / "project.json"

    def _line(self, *words: str) -> list[str]:
        program = Path(sys.executable).parent / "axiom-server"
        return [str(program), "--dir", str(self.folder), *words]

    def _ready(self) -> bool:
        trusted = ssl.create_default_context(cafile=str(self.certificate))
        trusted.check_hostname = False  # it is issued for the address that the guest uses
        try:
            url = f"https://127.0.0.1:{self.port}/readyz"
            with urllib.request.urlopen(url, context=trusted, timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False


def _write_certificate(chain: Path, key_file: Path) -> None:
    """A self-signed certificate for 10.0.2.2, valid for a week."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "the project of a test")])
    now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
    address = x509.IPAddress(ipaddress.ip_address(SEEN_BY_GUEST))
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - day)
        .not_valid_after(now + 7 * day)
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    chain.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key_file.touch(mode=0o600)
    key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}
