"""A server with its own TLS certificate, as in the operator's page, and an agent that checks it."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.support import programs
from tests.support.processes import wait_for
from tests.support.programs import FIXTURES, Program

WALK = FIXTURES / "experiments" / "short_walk.py"
DAY = datetime.timedelta(days=1)


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A chain of one that vouches for 127.0.0.1, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "project.example")])
    now = datetime.datetime.now(datetime.UTC)
    alternative = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - DAY)
        .not_valid_after(now + DAY)
        .add_extension(alternative, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    chain, private = tmp_path / "fullchain.pem", tmp_path / "privkey.pem"
    chain.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return chain, private


def test_a_server_with_a_certificate(
    tmp_path: Path, agent: Program, certificate: tuple[Path, Path]
) -> None:
    chain, key = certificate
    server = programs.server(tmp_path)
    server.run("publish", "--skip", "dry-run", str(WALK))
    server.run("deploy", "short_walk", "--count", "2")
    url = f"https://127.0.0.1:{server.port}"
    process = server.start(
        "serve", "--port", str(server.port), "--certificate", str(chain), "--key", str(key)
    )

    trusted = ssl.create_default_context(cafile=str(chain))

    def ready() -> bool:
        assert process.poll() is None, "the server ended; see axiom-server.log"
        try:
            return httpx.get(f"{url}/readyz", verify=trusted, timeout=2).is_success
        except httpx.TransportError:
            return False

    try:
        wait_for("the server to be ready", ready)
        said = agent.run("attach", url, code=12)
        assert "certificate" in said  # it is signed by no authority that this machine trusts
        agent.run("config", "set", "network.ca_bundle", str(chain))
        agent.run("attach", url)
        agent.run("run", "--until-idle", "--no-display")
        assert server.json("review")["results"] == 2
    finally:
        server.stop()


def test_a_key_of_another_certificate(tmp_path: Path, certificate: tuple[Path, Path]) -> None:
    chain, _ = certificate
    server = programs.server(tmp_path)
    words = ("serve", "--port", str(server.port), "--certificate", str(chain), "--key", str(chain))
    done = server.finish(*words)
    assert done.returncode != 0
    assert "are not a certificate and its key" in done.stderr
    assert "Traceback" not in done.stderr
