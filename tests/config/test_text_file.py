"""Configuration files as editors save them: byte-order marks, CRLF, other encodings, mistakes."""

from __future__ import annotations

import codecs
import os
import stat
import sys
from pathlib import Path

import pytest

from axiom_client.config.file import set_value
from axiom_client.config.schema import load_config
from axiom_client.errors import BadValue, ConfigProblem


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


def test_a_byte_order_mark_is_read_and_kept(path: Path) -> None:
    path.write_bytes(codecs.BOM_UTF8 + b'[cpu]\nshare = "50%"\n')
    assert load_config(path, {})["cpu.share"] == 0.5
    set_value(path, "cpu.cores", "3")
    assert path.read_bytes() == codecs.BOM_UTF8 + b'[cpu]\nshare = "50%"\ncores = 3\n'


def test_crlf_line_ends_are_kept(path: Path) -> None:
    path.write_bytes(b'# mine\r\n[cpu]\r\nshare = "50%"  # quiet\r\n')
    set_value(path, "cpu.share", "75%")
    set_value(path, "cpu.cores", "3")
    set_value(path, "host.name", "attic")
    assert path.read_bytes() == (
        b'# mine\r\n[cpu]\r\nshare = "75%"  # quiet\r\ncores = 3\r\n\r\n'
        b'[host]\r\nname = "attic"\r\n'
    )
    assert load_config(path, {})["host.name"] == "attic"


def test_mixed_line_ends_stay_where_they_are(path: Path) -> None:
    path.write_bytes(b'[cpu]\r\nshare = "50%"\n[host]\r\nname = "attic"\r\n')
    set_value(path, "cpu.share", "75%")
    assert path.read_bytes() == b'[cpu]\r\nshare = "75%"\n[host]\r\nname = "attic"\r\n'


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_another_encoding_is_named_with_what_to_do(path: Path, encoding: str) -> None:
    path.write_bytes('[cpu]\nshare = "50%"\n'.encode(encoding))
    for use in (lambda: load_config(path, {}), lambda: set_value(path, "cpu.share", "75%")):
        with pytest.raises(ConfigProblem, match=r"UTF-(16|32).*save it as UTF-8"):
            use()


def test_latin_1_is_refused_with_its_line(path: Path) -> None:
    path.write_bytes('[host]\nname = "Müller"\n'.encode("latin-1"))
    for use in (lambda: load_config(path, {}), lambda: set_value(path, "cpu.share", "75%")):
        with pytest.raises(ConfigProblem, match=r"not saved as UTF-8 \(see line 2\)"):
            use()


MISTAKES = [
    "[cpu\n",
    "[cpu]\nshare = \n",
    "[cpu]\nshare = 1\nshare = 2\n",
    "cpu = 5\n",
    "[[cpu]]\nshare = 1\n",
    "[cpu]\ncorse = 2\n",
    "x = " + "[" * 3000,
    f"[cpu]\ncores = {'9' * 5000}\n",
]


@pytest.mark.parametrize("text", MISTAKES)
def test_setting_a_value_in_a_file_with_a_mistake_names_it_and_leaves_it(
    path: Path, text: str
) -> None:
    path.write_text(text)
    with pytest.raises(ConfigProblem, match=str(path)):
        set_value(path, "cpu.share", "75%")
    assert path.read_text() == text


def test_a_bad_value_in_the_file_can_be_set_right(path: Path) -> None:
    path.write_text('[cpu]\nshare = "banana"\n')
    set_value(path, "cpu.share", "75%")
    assert load_config(path, {})["cpu.share"] == 0.75


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("cpu.cores", "²"),
        ("cpu.cores", "9" * 5000),
        ("gpu.tasks", "²"),
        ("disk.total", "9" * 400),
        ("host.name", "\udcff"),
    ],
)
def test_values_that_are_none_are_bad_values(path: Path, key: str, text: str) -> None:
    with pytest.raises(BadValue, match=key):
        set_value(path, key, text)
    assert not path.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has neither modes nor plain links")
def test_permissions_and_a_symbolic_link_stay(path: Path, tmp_path: Path) -> None:
    real = tmp_path / "dotfiles.toml"
    real.write_text('[cpu]\nshare = "50%"\n')
    real.chmod(0o600)
    path.symlink_to(real)
    set_value(path, "cpu.share", "75%")
    assert path.is_symlink()
    assert stat.S_IMODE(real.stat().st_mode) == 0o600
    assert load_config(path, {})["cpu.share"] == 0.75


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() != 0, reason="only root gives away")
def test_the_service_still_reads_what_root_has_changed(path: Path) -> None:
    """The package gives the file to the service's user; a password makes its owner close it."""
    path.write_text('[cpu]\nshare = "50%"\n')
    os.chown(path, 4711, 4712)
    path.chmod(0o640)
    set_value(path, "cpu.share", "75%")
    seen = path.stat()
    assert (seen.st_uid, seen.st_gid, stat.S_IMODE(seen.st_mode)) == (4711, 4712, 0o640)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no umask")
def test_a_new_file_gets_what_the_umask_leaves(path: Path) -> None:
    old = os.umask(0o027)
    try:
        set_value(path, "cpu.share", "75%")
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no plain links")
def test_a_link_in_the_place_of_the_partial_file_is_not_written_through(path: Path) -> None:
    victim = path.with_name("victim")
    victim.write_text("mine")
    path.with_name(".config.toml.partial").symlink_to(victim)
    set_value(path, "cpu.share", "75%")
    assert victim.read_text() == "mine"
    assert not path.is_symlink()
    assert load_config(path, {})["cpu.share"] == 0.75


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("localhost:3128", "http://localhost:3128"),
        ("proxy.example", "http://proxy.example"),
        ("[::1]:3128", "http://[::1]:3128"),
        ("user:pw@proxy.example:3128", "http://user:pw@proxy.example:3128"),
        ("https://proxy.example:3128", "https://proxy.example:3128"),
        ("", ""),
    ],
)
def test_a_proxy_without_a_scheme_is_http(path: Path, text: str, url: str) -> None:
    assert set_value(path, "network.proxy", text) == url
    assert load_config(path, {})["network.proxy"] == url


@pytest.mark.parametrize(
    "text", ["ftp://proxy.example", "socks5://proxy.example:1", "localhost:many", "http://",
             "localhost:99999", "two words", "http://[::1:3128"],
)  # fmt: skip
def test_no_proxy_address(path: Path, text: str) -> None:
    with pytest.raises(BadValue, match="proxy's address"):
        set_value(path, "network.proxy", text)
