"""Staff's keys in a PKCS#11 device: SoftHSM where it is installed, through the commands."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.test_keys import WALK, Staff

pytest.importorskip("pkcs11", reason="python-pkcs11, of the hsm extra, is not installed")

from pkcs11 import Attribute, KeyType, Mechanism, lib
from pkcs11.util.ec import encode_named_curve_parameters

PIN, KEY_NUMBER = "1234-5678", 2
LIBRARIES = (
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib64/softhsm/libsofthsm2.so",
    "/usr/lib64/libsofthsm2.so",
    "/opt/homebrew/lib/softhsm/libsofthsm2.so",
)
LIBRARY = next((path for path in LIBRARIES if Path(path).exists()), "")

pytestmark = pytest.mark.skipif(
    not LIBRARY or not shutil.which("softhsm2-util"), reason="SoftHSM is not installed"
)


@pytest.fixture
def tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two tokens, each with its own key under the same number; returns the keys' names."""
    (tmp_path / "tokens").mkdir()
    config = tmp_path / "softhsm2.conf"
    config.write_text(f"directories.tokendir = {tmp_path}/tokens\nlog.level = ERROR\n")
    monkeypatch.setenv("SOFTHSM2_CONF", str(config))
    monkeypatch.setenv("PYKCS11LIB", LIBRARY)
    monkeypatch.setenv("AXIOM_KEYS_PIN", PIN)
    for label in ("ada", "bob"):
        subprocess.run(
            ["softhsm2-util", "--init-token", "--free", "--label", label, "--pin", PIN,
             "--so-pin", PIN], check=True, capture_output=True,
        )  # fmt: skip
    # In a separate process, because the library reads its configuration only once.
    subprocess.run(
        [sys.executable, "-m", "tests.trust.test_hsm"], check=True, timeout=120,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    return [f"hsm:{KEY_NUMBER}?label={label}" for label in ("ada", "bob")]


def make_keys() -> None:
    """A key pair on each token, as a device's own program makes it."""
    for label in ("ada", "bob"):
        with lib(LIBRARY).get_token(token_label=label).open(rw=True, user_pin=PIN) as session:
            curve = session.create_domain_parameters(
                KeyType.EC,
                {Attribute.EC_PARAMS: encode_named_curve_parameters("secp256r1")},
                local=True,
            )
            curve.generate_keypair(
                mechanism=Mechanism.EC_KEY_PAIR_GEN, store=True, id=bytes([KEY_NUMBER])
            )


def test_targets_keys_live_in_devices_and_two_must_sign(
    tokens: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    staff = Staff(tmp_path / "project")
    staff("init", staff.folder)
    change, add = tmp_path / "change.json", []
    for number, key in enumerate(tokens):
        public = tmp_path / f"targets-{number}.pub"
        staff("keys", "import", key, "--to", public)
        assert "PRIVATE" not in public.read_text()
        add += ["--add", public]
    (file_key,) = _ids(staff)
    staff("keys", "change", "targets", *add, "--request", change)
    staff("sign", change, "--keys", staff.folder / "keys", "--yes")
    staff("install", change)
    staff("keys", "change", "targets", "--threshold", "2", "--request", change)
    staff("sign", change, "--keys", staff.folder / "keys", "--yes")
    # Targets that one key signed do not reach the new threshold; the devices sign them first.
    renew = tmp_path / "renew.json"
    staff("keys", "renew", "--request", renew)
    for key in tokens:
        staff("sign", renew, "--key", key, "--yes")
    staff("install", renew)
    staff("install", change)

    request = tmp_path / "request.json"
    staff("publish", WALK, "--request", request, "--skip", "dry-run")
    assert "1 more" in staff("sign", request, "--key", tokens[1], "--yes")
    assert "1 of the 2" in staff("install", request, exit_code=11)
    assert "axiom-server install" in staff("sign", request, "--key", tokens[0], "--yes")
    staff("install", request)
    assert "short_walk" in staff("experiments")
    assert file_key in _ids(staff)

    monkeypatch.setenv("AXIOM_KEYS_PIN", "wrong")
    assert "refused: PinIncorrect" in staff(
        "sign", request, "--key", tokens[0], "--yes", exit_code=11
    )
    monkeypatch.delenv("AXIOM_KEYS_PIN")
    assert "AXIOM_KEYS_PIN" in staff("sign", request, "--key", tokens[0], "--yes", exit_code=11)


def test_a_device_that_cannot_sign_is_named_with_what_to_do(
    tokens: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    staff, request = Staff(tmp_path / "project"), tmp_path / "request.json"
    staff("init", staff.folder)
    staff("publish", WALK, "--request", request, "--skip", "dry-run")

    def refused(key: str) -> str:
        return staff("sign", request, "--key", key, "--yes", exit_code=11)

    assert "may not sign this" in refused(tokens[0])
    assert "No PKCS#11 token found for label eve" in refused("hsm:2?label=eve")
    assert "Multiple PKCS#11 tokens" in refused("hsm:2")
    assert "could not find ECDSA key" in refused("hsm:3?label=ada")
    assert "write hsm:2?label=TOKEN" in refused("file:/etc/passwd")
    assert "write hsm:2?label=TOKEN" in refused("hsm:x")
    monkeypatch.setenv("PYKCS11LIB", "/nowhere.so")
    assert "/nowhere.so" in refused(tokens[0])
    monkeypatch.delenv("PYKCS11LIB")
    assert "set PYKCS11LIB" in refused(tokens[0])


def _ids(staff: Staff) -> list[str]:
    return list(json.loads(staff("keys", "list", "--json"))["roles"]["targets"]["keys"])


if __name__ == "__main__":
    make_keys()
