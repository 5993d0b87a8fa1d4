"""What child processes get of the volunteer's environment: nothing that depends on where he stands.

Lists of folders such as PATH may have entries that name the current folder: an empty one, as in
``PYTHONPATH=:/opt/tools``, "." or any other relative one. Programs, modules and libraries are never
taken from there.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

_FOLDER_LISTS = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
_OWN_FOLDER = str(Path(__file__).resolve().parents[2])  # that of this package


def child_environment(**added: str) -> dict[str, str]:
    """This process's environment, with variables added, without relative entries of lists."""
    environment = {**os.environ, **added}
    for name in _FOLDER_LISTS:
        if name not in environment:
            continue
        if entries := absolute_entries(environment[name], name):
            environment[name] = entries
        else:
            del environment[name]
    return environment


def absolute_entries(value: str, name: str = "") -> str:
    """The entries of a list of folders that are absolute.

    Of PYTHONPATH also, made absolute, the one that this package was imported from.
    """
    kept = []
    for entry in value.split(os.pathsep):
        if os.path.isabs(entry):
            kept.append(entry)
        elif name == "PYTHONPATH" and os.path.realpath(entry) == _OWN_FOLDER:
            kept.append(_OWN_FOLDER)
    return os.pathsep.join(kept)


def find_program(name: str) -> str | None:
    """The absolute path of a program in PATH; None where there is none."""
    return shutil.which(name, path=absolute_entries(os.environ.get("PATH", os.defpath)))
