"""The script that runs as root after the installation, in a separate mount namespace."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.packaging.pages import ROOT

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the script is root's")
SCRIPT = ROOT / "packaging/linux/after_install.sh"
USER_ID = 31_415
FOLDERS = ("etc", "var/lib", "var/cache", "var/log")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """What the script finds in /etc: the user is there, and owns the agent's folder."""
    for name in (*FOLDERS, "bin"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "etc/passwd").write_text(
        f"root:x:0:0::/root:/bin/sh\naxiom-client:x:{USER_ID}:{USER_ID}::/:/bin/false\n"
    )
    (tmp_path / "etc/group").write_text(f"root:x:0:\naxiom-client:x:{USER_ID}:\n")
    systemctl = tmp_path / "bin/systemctl"
    systemctl.write_text("#!/bin/sh\n")
    systemctl.chmod(0o755)
    folder = tmp_path / "etc/axiom-client"
    folder.mkdir()
    os.chown(folder, USER_ID, USER_ID)
    (tmp_path / "etc/secret").write_text("root's own")
    return tmp_path


def run(root: Path, *words: str) -> None:
    mounts = "".join(f"mount --bind {root / name} /{name} && " for name in FOLDERS)
    line = ["unshare", "--mount", "sh", "-c", f'{mounts} exec sh {SCRIPT} "$@"', "sh", *words]
    environment = {"PATH": f"{root / 'bin'}:/usr/sbin:/usr/bin:/sbin:/bin"}
    done = subprocess.run(line, env=environment, capture_output=True, text=True, check=False)
    if "unshare failed" in done.stderr or "permission denied" in done.stderr.lower():
        pytest.skip("no mount namespaces here")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("words", [("configure", ""), ("configure", "0.1.0"), ("1",), ("2",)])
@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_a_link_in_the_users_folder_changes_no_other_file(
    root: Path, words: tuple[str, ...], link: object
) -> None:
    target = root / "etc/secret"
    config = root / "etc/axiom-client/config.toml"
    if link is os.symlink:
        config.symlink_to("/etc/secret")
    else:
        config.hardlink_to(target)
    run(root, *words)
    assert target.stat().st_uid == 0


def test_the_configuration_becomes_the_users(root: Path) -> None:
    config = root / "etc/axiom-client/config.toml"
    config.write_text("")
    run(root, "configure", "")
    assert config.stat().st_uid == USER_ID
    config.unlink()
    run(root, "configure", "0.1.0")  # its owner may do without
