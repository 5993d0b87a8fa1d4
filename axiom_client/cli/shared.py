"""Options and output that several commands use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from axiom_client.folders import Folders

if TYPE_CHECKING:
    from axiom_client.config.schema import Config

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Flags = Annotated[
    list[str] | None,
    typer.Option("--set", help="KEY=VALUE, overrides the configuration; may be repeated."),
]


def load(folders: Folders, flags: Sequence[str] = ()) -> Config:
    """The effective configuration. Raises ConfigProblem."""
    from axiom_client.config.schema import load_config, read_flags

    return load_config(folders.config_file, flags=read_flags(flags))


def print_json(value: Any) -> None:
    """Print a value as indented JSON."""
    import msgspec

    print(msgspec.json.format(msgspec.json.encode(value)).decode())


def print_result(text: str, facts: dict[str, Any], *, as_json: bool) -> None:
    """Print what was done: a line of text for people, or the same facts as JSON."""
    if as_json:
        print_json(facts)
    else:
        print(text)
