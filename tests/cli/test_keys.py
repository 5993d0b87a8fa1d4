"""The commands for signing keys, as processes: a project whose keys are taken offline."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.support.commands import run_command

ROOT = Path(__file__).parents[2]
WALK = ROOT / "tests" / "fixtures" / "experiments" / "short_walk.py"
PASSPHRASE = "correct horse battery staple"


class Staff:
    """Runs axiom-server in a project's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, *words: object, exit_code: int = 0, passphrase: str = "") -> str:
        environment = {**os.environ, "AXIOM_SERVER_DIR": str(self.folder)}
        environment.pop("AXIOM_KEYS_PASSPHRASE", None)
        if passphrase:
            environment["AXIOM_KEYS_PASSPHRASE"] = passphrase
        done = run_command("axiom-server", *map(str, words), environment=environment)
        assert done.returncode == exit_code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stderr if exit_code else done.stdout


@pytest.fixture
def staff(tmp_path: Path) -> Staff:
    """A new project, with its keys in its folder."""
    made = Staff(tmp_path / "project")
    made("init", made.folder)
    return made


def test_a_project_whose_keys_are_offline(staff: Staff, tmp_path: Path) -> None:
    offline = tmp_path / "offline"
    offline.mkdir()
    for path in [*staff.folder.glob("keys/root.*"), *staff.folder.glob("keys/targets.*")]:
        path.rename(offline / path.name)
    staff("keys", "protect", "--keys", offline, passphrase=PASSPHRASE)
    assert "keys request" in staff("publish", WALK, exit_code=11)

    request = tmp_path / "request.json"
    staff("publish", WALK, "--request", request)
    assert "has 0 of the 1 signatures" in staff("install", request, exit_code=11)
    sign = ("sign", request, "--keys", offline, "--yes")
    assert "AXIOM_KEYS_PASSPHRASE" in staff(*sign, exit_code=11)
    assert "publish short_walk@1.0.0 (" in staff(*sign, passphrase=PASSPHRASE)
    staff("install", request)
    (listed,) = json.loads(staff("experiments", "--json"))
    assert (listed["name"], listed["state"]) == ("short_walk", "active")
    staff("deploy", "short_walk", "--fill-idle")
    assert "write the request again" in staff("install", request, exit_code=11)

    staff("withdraw", "short_walk@1.0.0", "--keys", offline, passphrase=PASSPHRASE)
    (listed,) = json.loads(staff("experiments", "--json"))
    assert (listed["state"], listed["why"]) == ("retired", "withdrawn")
    assert "never published" in staff("withdraw", "no_walk@1.0.0", exit_code=8)


def test_keys_are_listed_rotated_and_changed(staff: Staff, tmp_path: Path) -> None:
    def keys_of(role: str) -> dict[str, object]:
        return dict(json.loads(staff("keys", "list", "--json"))["roles"][role])

    before = keys_of("timestamp")
    assert before["threshold"] == 1
    assert list(before["keys"].values()) == [str(staff.folder / "keys" / "timestamp.pem")]
    staff("keys", "rotate", "timestamp")
    assert keys_of("timestamp")["keys"].keys() != before["keys"].keys()

    staff("keys", "init", tmp_path / "second", "--no-passphrase")
    second = tmp_path / "second" / "targets.pub"
    too_many = staff("keys", "change", "targets", "--add", second, "--threshold", 3, exit_code=11)
    assert "would have 2 keys" in too_many
    staff("keys", "change", "targets", "--add", second)
    assert len(keys_of("targets")["keys"]) == 2
    assert "is not a role" in staff("keys", "rotate", "branch", exit_code=2)
    staff("keys", "renew")
