"""Writing the configuration file: a commented template, and single values between comments."""

from __future__ import annotations

import os
import textwrap
from pathlib import Path
from typing import Any

from axiom_client.config.schema import KEYS, Key, find_key, understand
from axiom_client.errors import ConfigProblem

INTRODUCTION = """\
# What axiom-client may use of this computer.
# Every key is listed with its default; remove the # before one to change it.
# A running agent takes changes up when it is told to: axiom-client config set KEY VALUE
"""


def template() -> str:
    """A fresh file: every key documented, every default commented out."""
    import tomli_w

    lines = [INTRODUCTION]
    section = ""
    for key in KEYS:
        head, _, name = key.name.partition(".")
        if head != section:
            section = head
            lines.append(f"\n[{section}]\n")
        lines.append(textwrap.indent(textwrap.fill(key.about, 76), "# ") + "\n")
        lines.append(f"# {tomli_w.dumps({name: key.default})}")
    return "".join(lines)


def write_template(path: Path) -> None:
    """Write a fresh file; an existing one is left alone. Raises ConfigProblem."""
    if path.exists():
        raise ConfigProblem(
            f"{path} exists already; change it with: axiom-client config set KEY VALUE"
        )
    _write(path, template())


def set_value(path: Path, name: str, text: str) -> Any:
    """Set one key and keep everything else, comments too; returns the value understood."""
    import tomlkit

    key = find_key(name)
    written = _as_toml(key, text)
    value = understand(key, written, "the command line")
    document = tomlkit.parse(path.read_text(encoding="utf-8") if path.exists() else template())
    section, _, last = name.partition(".")
    if section not in document:
        document[section] = tomlkit.table()
    document[section][last] = written
    _write(path, tomlkit.dumps(document))
    return value


def _as_toml(key: Key, text: str) -> bool | int | str:
    if isinstance(key.default, bool) and text in ("true", "false"):
        return text == "true"
    if isinstance(key.default, int) and not isinstance(key.default, bool) and text.isdigit():
        return int(text)
    return text


def _write(path: Path, text: str) -> None:
    """Replace the file in one go: a crash leaves the old one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
