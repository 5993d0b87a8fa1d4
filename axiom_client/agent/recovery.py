"""Opens the agent's journal. A damaged one is put aside, and its readable rows go into a new one.

The new journal is complete, under a name of its own, before the damaged one is moved. After a crash
at any time, the next start finishes the replacement.
"""

from __future__ import annotations

import os
import shutil
import time
from itertools import chain, count
from pathlib import Path

from axiom_client.agent.journal import Journal
from axiom_client.agent.salvage import Salvaged, salvage
from axiom_client.decide import commands as c
from axiom_client.decide.model import Incident
from axiom_client.errors import JournalBroken, JournalDamaged
from axiom_protocol.text import counted

PARTS = ("", "-wal", "-shm", "-journal")  # of one SQLite database
ASIDE_MAX = 3  # damaged journals that are kept: a disk that damages each one must not fill up


def open_journal(path: Path) -> Journal:
    """The journal, ready for use. Call it only while holding the agent's lock.

    Raises DiskFull, JournalBroken.
    """
    _finish_replacement(path)
    try:
        return _checked(path)
    except JournalDamaged as damage:
        _build_replacement(path, damage.problem)
    _finish_replacement(path)
    return Journal(path)


def _checked(path: Path) -> Journal:
    if problem := visible_damage(path):
        raise JournalDamaged(path, problem)
    journal = Journal(path)
    try:
        journal.check()
    except BaseException:
        journal.close()
        raise
    return journal


def visible_damage(path: Path) -> str:
    """What is wrong with the files, as seen without opening them; empty when nothing is.

    SQLite takes an empty file for a new database, so its damage would go unnoticed.
    """
    for part in _parts(path):
        if os.path.lexists(part) and not part.is_file():
            return f"{part.name} is no file"
    if path.is_file() and path.stat().st_size == 0:
        return "it is empty"
    return ""


def remove_journals(path: Path) -> None:
    """Delete the journal and all damaged ones that were put aside."""
    for part in (*_parts(path), *_parts(_replacement(path)), *_put_aside(path)):
        _remove(part)


def _parts(path: Path) -> list[Path]:
    return [path.with_name(path.name + suffix) for suffix in PARTS]


def _replacement(path: Path) -> Path:
    return path.with_name(f"{path.stem}-new{path.suffix}")


def _put_aside(path: Path) -> list[Path]:
    """All files of earlier damaged journals, by date."""
    return sorted(path.parent.glob(f"{path.stem}-damaged-*"))


def _build_replacement(path: Path, problem: str) -> None:
    unfinished = path.with_name(f"{path.stem}-unfinished{path.suffix}")
    for part in _parts(unfinished):
        _remove(part)
    saved = _salvaged(path)
    journal = Journal(unfinished)
    try:
        incident = Incident(text=_text(path, problem, saved), wall=time.time())
        journal.write([*saved.commands(), c.SaveValue(key="incident", value=incident)])
    finally:
        journal.close()
    os.replace(unfinished, _replacement(path))


def _salvaged(path: Path) -> Salvaged:
    try:
        return salvage(path)
    except PermissionError as error:
        raise JournalBroken(
            f"{error.filename}: {error.strerror}; let the agent's user read it, or delete it"
        ) from None


def _text(path: Path, problem: str, saved: Salvaged) -> str:
    return (
        f"{path.name} was damaged ({problem}) and is put aside in its folder, under its date; "
        f"{counted(len(saved.tasks), 'task')} and {counted(len(saved.reports), 'report')} could be "
        "saved; the server gives all others to other hosts"
    )


def _finish_replacement(path: Path) -> None:
    """Put the damaged files aside and the new one in their place."""
    new = _replacement(path)
    if not new.exists():
        return
    name = _free_name(path)
    for part, suffix in zip(_parts(path), PARTS, strict=True):
        if os.path.lexists(part):
            os.replace(part, path.with_name(f"{name}{path.suffix}{suffix}"))
    os.replace(new, path)
    names = sorted(_names_put_aside(path))
    for file in _put_aside(path):
        if _stem(file, path) in names[:-ASIDE_MAX]:
            _remove(file)


def _free_name(path: Path) -> str:
    """A name by the date that no earlier damaged journal has, not even one of this second."""
    dated = f"{path.stem}-damaged-{_date()}"
    taken = _names_put_aside(path)
    numbered = (f"{dated}-{n}" for n in count(2))
    return next(name for name in chain([dated], numbered) if name not in taken)


def _date() -> str:
    return time.strftime("%Y-%m-%dT%H%M%SZ", time.gmtime())


def _names_put_aside(path: Path) -> set[str]:
    return {_stem(file, path) for file in _put_aside(path)}


def _stem(file: Path, path: Path) -> str:
    """The name that all parts of one damaged journal share."""
    return file.name.split(path.suffix)[0]


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
