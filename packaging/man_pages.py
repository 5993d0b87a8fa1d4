"""Generates the manual pages axiom-client(1) and axiom-client.toml(5) from the code.

The command line, the keys and the exit codes are read from the code, so that the pages always
describe this version.
"""

from __future__ import annotations

import re
import textwrap
from typing import Any

import typer.main

from axiom_client import errors
from axiom_client.config.schema import KEYS
from axiom_protocol import __version__

FILES = """\
The platform's folders of the user; with AXIOM_CLIENT_DIR, all under that one folder.
The packaged service has /etc/axiom\\-client/config.toml, /var/lib/axiom\\-client (journal,
identity, control socket, tasks), /var/cache/axiom\\-client and /var/log/axiom\\-client."""


def client_page() -> str:
    """axiom-client(1) as roff."""
    from axiom_client.cli.app import app

    command = typer.main.get_command(app)
    parts = [
        _title("AXIOM-CLIENT", 1, "User Commands"),
        _section("NAME", "axiom\\-client \\- fill idle cores and GPUs with confined experiments"),
        _section("SYNOPSIS", "\\fBaxiom\\-client\\fR \\fICOMMAND\\fR [\\fIOPTION\\fR]..."),
        _section("DESCRIPTION", _roff(command.help or "")),
        ".SH COMMANDS\n" + "".join(_commands("", command)),
        ".SH EXIT STATUS\n" + "".join(_tagged(str(c), _roff(m)) for c, m in exit_codes()),
        _section("FILES", FILES),
        _section("SEE ALSO", "\\fBaxiom\\-client.toml\\fR(5), \\fBsystemctl\\fR(1)"),
    ]
    return "".join(parts)


def config_page() -> str:
    """axiom-client.toml(5) as roff."""
    keys = "".join(
        _tagged(
            f"\\fB{_roff(key.name)}\\fR, default {_roff(str(key.default) or 'empty')}",
            _roff(key.about) + f"\n.br\nEnvironment: {_roff(key.variable)}",
        )
        for key in KEYS
    )
    about = (
        "How much of this computer the agent may use, in TOML. In the names below, the part before "
        "the dot is the section, the part after it the key."
    )
    return "".join(
        [
            _title("AXIOM-CLIENT.TOML", 5, "File Formats"),
            _section("NAME", "axiom\\-client.toml \\- configuration of the Axiom agent"),
            _section("DESCRIPTION", _roff(about)),
            ".SH KEYS\n" + keys,
            _section("SEE ALSO", "\\fBaxiom\\-client\\fR(1)"),
        ]
    )


def exit_codes() -> list[tuple[int, str]]:
    """Every exit code of the agent and its meaning."""
    found = {0: "success", 2: "invalid command line", 130: "interrupted by Ctrl-C"}
    waiting: list[type[errors.AxiomError]] = [errors.AxiomError]
    while waiting:
        error = waiting.pop()
        found.setdefault(error.exit_code, error.meaning)
        waiting += error.__subclasses__()
    return sorted(found.items())


def _commands(prefix: str, group: Any) -> list[str]:
    lines: list[str] = []
    for name, command in group.commands.items():
        if command.hidden:
            continue
        full = f"{prefix} {name}".strip()
        if hasattr(command, "commands"):
            lines += _commands(full, command)
            continue
        lines.append(f".SS {_roff(full)}{_arguments(command)}\n{_roff(command.help or '')}\n")
        lines += [_option(p) for p in command.params if _is_shown(p)]
    return lines


def _is_shown(parameter: Any) -> bool:
    is_option = parameter.param_type_name == "option"
    return is_option and not parameter.hidden and parameter.name != "help"


def _arguments(command: Any) -> str:
    arguments = (p for p in command.params if p.param_type_name == "argument")
    return "".join(f" {_roff((p.metavar or p.name).upper())}" for p in arguments)


def _option(option: Any) -> str:
    names = ", ".join(f"\\fB{_roff(name)}\\fR" for name in [*option.opts, *option.secondary_opts])
    value = "" if option.is_flag else f" \\fI{_roff((option.metavar or option.name).upper())}\\fR"
    return _tagged(names + value, _roff(option.help or ""))


def _title(name: str, section: int, book: str) -> str:
    return f'.TH {_roff(name)} {section} "" "axiom-client {__version__}" "{book}"\n'


def _section(name: str, text: str) -> str:
    return f".SH {name}\n{text}\n"


def _tagged(tag: str, text: str) -> str:
    return f".TP\n{tag}\n{text}\n"


def _roff(text: str) -> str:
    """Plain text as roff: special characters escaped, paragraphs kept."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    lines = textwrap.dedent(escaped).strip().replace("\n\n", "\n.PP\n")
    return re.sub(r"(?m)^([.'])(?!PP)", r"\\&\1", lines)
