"""Writes the configuration file: a commented template, or one value with the rest kept."""

from __future__ import annotations

import os
import textwrap
import tomllib
from pathlib import Path
from typing import Any

from axiom_client.config.schema import KEYS, Key, find_key, parse_table, parse_value, settings_in
from axiom_client.config.text_file import TextFile, read_text_file, write_text_file
from axiom_client.errors import BadValue, ConfigProblem

INTRODUCTION = """\
# How much of this computer axiom-client may use.
# Every key is listed with its default value. To change one, remove the # before it.
# The same can be done with: axiom-client config set KEY VALUE
"""


def template() -> str:
    """The text of a new file: every key with its documentation, every default commented out."""
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
    """Write a new file. Raises ConfigProblem where one exists already."""
    if path.exists():
        raise ConfigProblem(
            f"{path} exists already; change it with: axiom-client config set KEY VALUE"
        )
    write_text_file(path, _new_file())


def set_value(path: Path, name: str, text: str) -> Any:
    """Set one key and keep everything else, comments included; returns the parsed value.

    Raises ConfigProblem where the value is not valid or the file has a mistake, and then leaves the
    file as it was.
    """
    key = find_key(name)
    written = _as_toml(key, text)
    value = parse_value(key, written, "the command line")
    try:
        file = read_text_file(path)
    except FileNotFoundError:
        file = _new_file()
    settings_in(parse_table(file.text, path), path)
    changed = _with_value(file.text, path, name, written)
    write_text_file(
        path, TextFile(text=changed, byte_order_mark=file.byte_order_mark, crlf=file.crlf)
    )
    return value


def _new_file() -> TextFile:
    return TextFile(text=template(), crlf=os.linesep == "\r\n")


def _with_value(text: str, path: Path, name: str, written: bool | int | str) -> str:
    """The file's text with one value changed. Raises ConfigProblem."""
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    section, _, last = name.partition(".")
    try:
        document = tomlkit.parse(text)
        if section not in document:
            document[section] = tomlkit.table()
        document[section][last] = written
        changed = tomlkit.dumps(document)
        if settings_in(tomllib.loads(changed), path)[name] != written:
            raise KeyError(name)
    except (TOMLKitError, tomllib.TOMLDecodeError, TypeError, KeyError):  # a layout it cannot edit
        raise ConfigProblem(
            f"{path} could not be changed by this command; set {name} in it with an editor"
        ) from None
    return changed


def _as_toml(key: Key, text: str) -> bool | int | str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadValue(f"{key.name} = {text!r} is not UTF-8 text; type it again") from None
    if isinstance(key.default, bool) and text in ("true", "false"):
        return text == "true"
    if isinstance(key.default, int) and not isinstance(key.default, bool):
        return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else text
    return text
