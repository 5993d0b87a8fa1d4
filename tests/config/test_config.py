"""The volunteer's configuration: accepted and refused values, and edits that keep the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from axiom_client.config.file import set_value, template, write_template
from axiom_client.config.quantities import (
    read_seconds,
    read_share,
    read_size,
    show_seconds,
    show_size,
)
from axiom_client.config.schema import KEYS, load_config
from axiom_client.errors import BadValue, ConfigProblem, UnknownKey


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "config" / "config.toml"


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("read", "text", "value"),
    [
        (read_size, "4 GB", 4_000_000_000),
        (read_size, "512MiB", 512 * 2**20),
        (read_size, 100, 100),
        (read_size, "1.5k", 1500),
        (read_seconds, "10 min", 600.0),
        (read_seconds, "2h", 7200.0),
        (read_seconds, "1.5 days", 129600.0),
        (read_seconds, 30, 30.0),
        (read_share, "75%", 0.75),
        (read_share, 0.5, 0.5),
        (read_share, "100 %", 1.0),
    ],
)
def test_quantities_as_people_write_them(read: Any, text: Any, value: float) -> None:
    assert read(text) == pytest.approx(value)


@pytest.mark.parametrize(
    ("read", "text"),
    [
        (read_size, "four GB"), (read_size, "4 XB"), (read_size, "-1 GB"),
        (read_seconds, "soon"), (read_seconds, "3 years"), (read_seconds, ""),
        (read_share, "150%"), (read_share, "2"), (read_share, "50 GB"),
    ],
)  # fmt: skip
def test_quantities_that_are_none(read: Any, text: str) -> None:
    with pytest.raises(ValueError, match=r"number|unit|share"):
        read(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(8, "8 s"), (99, "99 s"), (120, "2 min"), (5969, "99 min"), (11100, "3 h 05"),
     (200_000, "2 days")],
)  # fmt: skip
def test_times_for_people(seconds: float, text: str) -> None:
    assert show_seconds(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"), [(5, "5 B"), (850_000_000, "850 MB"), (4e9, "4.0 GB"), (2.5e12, "2.5 TB")]
)
def test_sizes_for_people(size: float, text: str) -> None:
    assert show_size(size) == text


def test_without_a_file_all_is_default(path: Path) -> None:
    config = load_config(path, {})
    assert {setting.origin for setting in config.settings.values()} == {"default"}
    assert config.limits().cpu_share == 1.0


def test_flag_beats_variable_beats_file_beats_default(path: Path) -> None:
    write(path, '[cpu]\nshare = "50%"\ncores = 3\n[work]\nbuffer = "1 h"\n')
    config = load_config(
        path, {"AXIOM_CPU_SHARE": "25%", "AXIOM_GPU_ENABLED": "false"}, {"cpu.cores": 1}
    )
    assert (config["cpu.share"], config.settings["cpu.share"].origin) == (0.25, "AXIOM_CPU_SHARE")
    assert (config["cpu.cores"], config.settings["cpu.cores"].origin) == (1, "flag")
    assert (config["work.buffer"], config.settings["work.buffer"].origin) == (3600.0, str(path))
    assert config["gpu.enabled"] is False
    assert config.settings["memory.share"].origin == "default"


@pytest.mark.parametrize(
    ("text", "wrong", "nearest"),
    [
        ("[cpu]\ncorse = 2\n", "cpu.corse", "cpu.cores"),
        ("[cpus]\nshare = 2\n", "cpus.share", "cpu.share"),
        ('[work]\nbufer = "1 h"\n', "work.bufer", "work.buffer"),
        ("share = 1\n", "share", "share"),
    ],
)
def test_unknown_key_is_refused_with_the_nearest(
    path: Path, text: str, wrong: str, nearest: str
) -> None:
    with pytest.raises(UnknownKey) as caught:
        load_config(write(path, text), {})
    assert repr(wrong) in str(caught.value)
    assert nearest in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ['[cpu]\nshare = "200%"\n', "[cpu]\ncores = -1\n", "[cpu]\ncores = true\n",
     '[gpu]\nenabled = "maybe"\n', '[disk]\ntotal = "much"\n', "[host]\nname = 5\n",
     "[cpu.share]\nx = 1\n"],
)  # fmt: skip
def test_bad_value_is_refused_with_its_place(path: Path, text: str) -> None:
    with pytest.raises(BadValue) as caught:
        load_config(write(path, text), {})
    assert str(path) in str(caught.value)


def test_file_that_is_not_toml(path: Path) -> None:
    with pytest.raises(ConfigProblem, match="not valid TOML"):
        load_config(write(path, "[cpu\n"), {})


def test_template_documents_every_key_and_changes_nothing(path: Path) -> None:
    write_template(path)
    text = path.read_text()
    for key in KEYS:
        assert f"# {key.name.split('.')[1]} = " in text
    assert {s.origin for s in load_config(path, {}).settings.values()} == {"default"}
    with pytest.raises(ConfigProblem, match="exists already"):
        write_template(path)


def test_template_with_every_key_switched_on_is_valid(path: Path) -> None:
    lines = [
        line[2:] if line.startswith("# ") and " = " in line and line[2].islower() else line
        for line in template().splitlines()
    ]
    config = load_config(write(path, "\n".join(lines)), {})
    assert {s.origin for s in config.settings.values()} == {str(path)}


def test_set_keeps_comments_and_the_rest(path: Path) -> None:
    write(path, '# mine\n[cpu]\nshare = "50%"  # quiet\n\n[host]\nname = "x"\n')
    set_value(path, "cpu.share", "75%")
    set_value(path, "gpu.enabled", "false")
    set_value(path, "cpu.cores", "4")
    text = path.read_text()
    assert "# mine" in text
    assert '"75%"  # quiet' in text
    config = load_config(path, {})
    assert (config["cpu.share"], config["cpu.cores"]) == (0.75, 4)
    assert (config["gpu.enabled"], config["host.name"]) == (False, "x")


def test_set_refuses_what_could_not_be_read_back(path: Path) -> None:
    write(path, "[cpu]\ncores = 2\n")
    with pytest.raises(BadValue):
        set_value(path, "cpu.cores", "many")
    with pytest.raises(UnknownKey, match=r"cpu\.cores"):
        set_value(path, "cpu.corse", "2")
    assert path.read_text() == "[cpu]\ncores = 2\n"
