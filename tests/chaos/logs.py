"""Check the logs: every line at level warning or above must be of a known kind."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tests.chaos.site import Site

#: Lines that an agent may log, with the fault that causes them.
AGENT = (
    r"no contact: .*; tasks go on and contact is tried again",
    r".* could not be fetched: .*",
    r".* was changed on disk; it is fetched again",
    r"the metadata on disk cannot be used: .*",
    r"task \d+ of \S+ ended: (lost|cancelled|failed): .*",
    r"task \d+ of \S+ gets no credit: (this host is quarantined: .*|this task was never granted.*)",
    r"task \d+ of \S+ gets no credit: this host (gave the task back|reported this task before) .*",
    r"\S+ is refused and not run: .*(withdrawn|not offered|no longer).*",
    r"task \d+ of \S+ is given back: .*",
    r"no space left .*",
    r"task \d+ of \S+ is stopped until later: memory is short",
    r"refused: .*",
    r"the server was restored from a backup; \d+ results? reported again",
    r"journal\.sqlite was damaged .* is put aside in its folder, .*",
    r"this folder is a copy of another agent's: .*",
    r".* does not accept this host: This host is not known here\. .*: it was host \d+ and is .*",
    r".*; joining as a new host is tried again",
    r".*pinned\.root\.json was lost or changed on disk; it is fetched again",
)

#: Lines that a server may log, by their ``event``, and the reason if it has one. None may have a
#: traceback.
SERVER = (
    r"maintenance round failed; it will be repeated",
    r"the database does not (start|answer)",
    r"the bundles could not be re-signed",
    r"the pages were not refreshed",
    r"hosts? quarantined: .*",
    r"results refuted",
    r"experiment stopped: \d+ of its last \d+ tasks failed, .*",
)

#: Errors that a command may print.
COMMAND = (
    r"axiom-client: .*(no space left|space).*",
    r".*pinned\.root\.json was lost or changed on disk; it is fetched again",
    r".*\.py was changed on disk; it is fetched again",
    r"the metadata on disk cannot be used: .*",
    r"axiom-client: .*journal\.sqlite: .*",
    r"axiom-client: .*: (Read-only file system|Permission denied).*",
    r"axiom-server: PostgreSQL .*",
    r"axiom-server: no space left .*",
    r"axiom-server: \S+ is stopped \(\d+ of its last \d+ tasks failed, .*\); resume it: .*",
    r"axiom-server: cannot use the database folder .*",
    r".*error connecting in 'pool-\d+': .*",  # two servers write to one log
    r"\t?(Is the server running locally|connection to server).*",
    r"\t?Is the server running .*",
    r"\t(This probably means the server terminated abnormally|before or while processing.*)",
    r"DETAIL:  .*",
    r"consuming input failed: .*",
    r"discarding (closed|broken) connection: .*",
    r"error ignored in rollback .*: .*",
    r"error ignored terminating .*: .*",  # with any of libpq's words for a lost connection
    r"(server closed the connection unexpectedly|no connection to the server)",
    r"couldn't (stop|get) .*",
    # Python's asyncio, about a child that ends while a signal is sent to it.
    r"child process pid \d+ exit status already read: .*",
)

POSTGRES = (
    r"terminating connection .*",
    r"the database system is .*",
    r"(server process|all server processes|background worker|database system was).*",
    r"\S+ \(PID \d+\).*",
    r"terminating any other active server processes",
    r"could not (write|extend|open|create|resize|fsync|access|close|rename|read|remove|link).*",
    r"could not (receive|send|load).*",
    r".*No space left on device.*",
    r"canceling (statement|autovacuum task).*",
    r"terminating (autovacuum|background|walwriter|logical).*",
    r"issuing SIG\w+ to recalcitrant children",
    r"connection to client lost",
    r"checkpoint request failed",
    r"database \"\w+\" does not exist",  # while it gets another name
    r"canceling authentication due to timeout",
    r"worker took too long to start; canceled",
    r"autovacuum worker took too long to start; canceled",
    r"unexpected EOF on client connection.*",
    r"startup process .*",
    r"deadlock detected",
    r"(log file|lock file|data directory lock file|performing immediate shutdown because).*",
    r"could not translate .*|archive .*|using stale statistics.*",
    r"there is no transaction in progress",
    # Backends of a killed postmaster that have not ended yet; the next try starts.
    r"pre-existing shared memory block .* is still in use",
    r"some useless files may be left behind in old database directory .*",
)
#: How entries of the server's log begin.
BEGINNING = r'(?:discarding |error (?:connecting|ignored) |\{"|couldn\'t |consuming |serving )'
#: The beginning of an entry that a full disk cut off; the next entry follows it directly.
CUT_ENTRY = re.compile(rf'^(?:\{{".*?(?=$|{BEGINNING})|{BEGINNING}.*?(?={BEGINNING}))')
#: The beginning of an entry of PostgreSQL that follows one that a full disk cut off.
POSTGRES_ENTRY = re.compile(r"(?<=.)(?=\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+ \w+ \[\d+\] )")
POSTGRES_LEVEL = re.compile(r"\b(WARNING|ERROR|FATAL|PANIC):  ?(.*)")
#: Lines without a level: the agent's log has them with their level.
PLAIN = re.compile(r"serving http://|ended: |^\d\d:\d\d:\d\d |^refused: |^# |^$")


def unknown(site: Site) -> Iterator[str]:
    """The lines of unknown kinds, each kind once, with its number of occurrences."""
    found: Counter[str] = Counter()
    for agent in site.agents:
        for path in agent.state.glob("agent.log*"):
            found.update(_of_agent(path))
        found.update(_of_console(agent.program.folder.parent / "axiom-client.log"))
    found.update(_of_console(site.root / "staff.log"))
    for path in site.root.rglob("axiom-server.log"):
        found.update(_of_server(path))
    for path in site.root.rglob("postgres.log"):
        found.update(_of_postgres(path))
    for line, times in found.most_common():
        yield f"{times} x {line}"


def _of_agent(path: Path) -> Iterator[str]:
    for line in _lines(path):
        if match := re.match(r"\S+ \S+ (WARNING|ERROR|CRITICAL) +(.*)", line):
            if not _known(AGENT, match[2]):
                yield f"agent: {_without_numbers(match[2])}"
        elif not re.match(r"\S+ \S+ (INFO|DEBUG) ", line) and line:
            yield f"agent: {_without_numbers(line)}"


def _of_console(path: Path) -> Iterator[str]:
    for line in _lines(path):
        if not _is_plain(line):
            yield f"command: {_without_numbers(line)}"


def _of_server(path: Path) -> Iterator[str]:
    for line in _lines(path):
        try:
            entry = json.loads(line)
        except ValueError:
            if not _is_plain(line) and not _is_plain(CUT_ENTRY.sub("", line)):
                yield f"server: {_without_numbers(line)}"
            continue
        quiet = entry.get("level") in ("debug", "info")
        words = ": ".join(str(entry[key]) for key in ("event", "reason") if key in entry)
        if not quiet and ("exception" in entry or not _known(SERVER, words)):
            yield f"server: {_without_numbers(line)}"


def _of_postgres(path: Path) -> Iterator[str]:
    for line in _lines(path):
        *_cut_off, entry = POSTGRES_ENTRY.split(line)
        match = POSTGRES_LEVEL.search(entry)
        if match and not _known(POSTGRES, match[2]):
            yield f"postgres: {match[1]}: {_without_numbers(match[2])}"


def _lines(path: Path) -> Iterator[str]:
    if path.exists():
        yield from path.read_text(errors="replace").splitlines()


def _is_plain(line: str) -> bool:
    return bool(PLAIN.search(line)) or _known(COMMAND, line)


def _known(kinds: tuple[str, ...], line: str) -> bool:
    return any(re.fullmatch(kind, line) for kind in kinds)


def _without_numbers(line: str) -> str:
    return re.sub(r"\d+", "N", line)[:300]
