"""Writes the tables of docs/ that are generated from code: python packaging/doc_tables.py [--check]

A table stands between two comments in a page, ``<!-- keys: ... -->`` and ``<!-- end of keys -->``.
"""

from __future__ import annotations

import re
import sys
import typing
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from axiom_client.config.schema import KEYS
from axiom_protocol import messages

DOCS = Path(__file__).parents[1] / "docs"


def keys() -> str:
    """The table of the agent's configuration keys."""
    rows = [
        (f"`{key.name}`", _default(key.default), key.about, f"`{key.variable}`") for key in KEYS
    ]
    return _table(("key", "default", "what it means", "environment"), rows)


def _default(value: object) -> str:
    """A default value as in TOML, without the quotes."""
    if value == "":
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def fields() -> str:
    """The tables of the protocol's messages and their fields."""
    parts = []
    for name in ("ProjectInfo", "EnrolRequest", "EnrolAnswer", "HostFacts", "GpuFacts",
                 "SyncRequest", "Capacity", "InHand", "Report", "SyncAnswer", "Grant",
                 "Acknowledgement", "Credit", "Problem"):  # fmt: skip
        struct = getattr(messages, name)
        rows = [
            (f"`{field.name}`", _type_name(field.type), "yes" if field.required else "")
            for field in msgspec.structs.fields(struct)
        ]
        about = " ".join((struct.__doc__ or "").partition("\n\n")[0].split()).replace("``", "`")
        parts.append(f"### {name}\n\n{about}\n\n{_table(('field', 'type', 'required'), rows)}")
    return "## Messages\n\n" + "\n".join(parts)


def _type_name(hint: typing.Any) -> str:
    if typing.get_origin(hint) is typing.Annotated:
        return _type_name(typing.get_args(hint)[0])
    if typing.get_origin(hint) is typing.Literal:
        return ", ".join(f"`{value}`" for value in typing.get_args(hint))
    if typing.get_origin(hint) is list:
        return f"list of {_type_name(typing.get_args(hint)[0])}"
    if typing.get_origin(hint) is dict:
        return "table"
    if arguments := typing.get_args(hint):  # a union with None
        return " or ".join(_type_name(argument) for argument in arguments)
    if hint is type(None):
        return "null"
    return {"str": "text", "int": "whole number", "float": "number", "Any": "any"}.get(
        getattr(hint, "__name__", str(hint)), getattr(hint, "__name__", str(hint))
    )


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines
    )


TABLES: dict[str, tuple[str, Callable[[], str]]] = {
    "keys": ("power-user.md", keys),
    "fields": ("api.md", fields),
}


def current(page: str, name: str, make: Callable[[], str]) -> str:
    """The page with its table replaced by the current one."""
    between = rf"(<!-- {name}: [^\n]*-->\n).*?(<!-- end of {name} -->)"
    text = make()
    found, count = re.subn(between, lambda m: f"{m[1]}\n{text}\n{m[2]}", page, flags=re.DOTALL)
    if count != 1:
        raise SystemExit(f"the page has {count} places for the table {name!r}, not one")
    return found


def main(check: bool) -> None:
    for name, (file, make) in TABLES.items():
        path = DOCS / file
        wanted = current(path.read_text(), name, make)
        if wanted != path.read_text():
            if check:
                sys.exit(f"docs/{file} is not current; run: python packaging/doc_tables.py")
            path.write_text(wanted)
            print(f"docs/{file}")


if __name__ == "__main__":
    main("--check" in sys.argv[1:])
