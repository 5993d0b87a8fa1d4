"""Release axiom-client with keys that are not on the server, by signing requests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import programs
from tests.support.programs import Server
from tests.support.release_archive import build_wheel


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A project whose staff's keys are in another folder, with one for releases."""
    made = programs.server(tmp_path)
    made.run("release", "trust", "--no-passphrase")
    (made.folder / "keys").rename(tmp_path / "staff")
    (made.folder / "keys").mkdir()
    for role in ("snapshot", "timestamp"):
        for ending in ("pem", "pub"):
            (tmp_path / "staff" / f"{role}.{ending}").rename(
                made.folder / "keys" / f"{role}.{ending}"
            )
    yield made
    made.stop()


def signed(server: Server, tmp_path: Path, *words: str) -> str:
    """What a person sees who signs the request of a command; it is then installed."""
    request = tmp_path / "request.json"
    server.run("release", *words, "--request", str(request))
    shown = server.run("sign", str(request), "--keys", str(tmp_path / "staff"), "--yes")
    server.run("install", str(request))
    return shown


def test_a_release_is_signed_elsewhere_and_listed(server: Server, tmp_path: Path) -> None:
    wheel = build_wheel(tmp_path, "0.9.1")
    shown = signed(server, tmp_path, "publish", str(wheel))
    assert "release axiom-client 0.9.1 for any, Python 3.11 (" in shown
    [facts] = server.json("release", "list")["releases"].values()
    assert (facts["version"], facts["journal_format"]) == ("0.9.1", 1)
    assert "client-releases: 1 of 1 signatures" in server.run("keys", "list")

    assert "nothing to change" in server.run(
        "release", "publish", str(wheel), "--request", str(tmp_path / "again.json")
    )
    assert "withdraw axiom-client-0.9.1-any" in signed(server, tmp_path, "withdraw", "0.9.1")
    assert server.json("release", "list")["releases"] == {}


def test_the_roles_keys_are_replaced_by_two_requests(server: Server, tmp_path: Path) -> None:
    signed(server, tmp_path, "publish", str(build_wheel(tmp_path, "0.9.1")))
    (tmp_path / "staff" / "client-releases.pem").unlink()
    old = (tmp_path / "staff" / "client-releases.pub").read_bytes()
    (tmp_path / "staff" / "client-releases.pub").unlink()
    server.run("release", "trust", "--no-passphrase", "--keys", str(tmp_path / "staff"),
               "--request", str(tmp_path / "ignored.json"))  # fmt: skip
    public = tmp_path / "staff" / "client-releases.pub"
    assert public.read_bytes() != old
    root = signed(server, tmp_path, "trust", "--key", str(public))
    assert "trust the client-releases key" in root
    assert "distrust the client-releases key" in root
    delegation = signed(server, tmp_path, "trust", "--key", str(public))
    assert "let the client-releases keys that the root names sign releases" in delegation
    renewed = signed(server, tmp_path, "renew")
    assert "release axiom-client 0.9.1" in renewed  # the new key signs all that it lists


def test_what_is_no_archive_is_refused_with_its_name(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.whl").write_bytes(b"no zip")
    told = server.run("release", "publish", str(tmp_path / "a.whl"), code=14)
    assert "a.whl: it is no archive of axiom-client" in told
    missing = server.run("release", "publish", str(tmp_path / "b.whl"), code=9)
    assert "b.whl cannot be read" in missing
