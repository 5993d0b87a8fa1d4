"""Check the state after a chaos run: by SQL, by /proc and by the remaining files."""

from __future__ import annotations

import fcntl
import sqlite3
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from tests.chaos.experiments import POISON
from tests.chaos.site import Agent, Site
from tests.chaos.traffic import Acknowledged

ATTEMPTS_MAX = 6  # of a workunit that always fails; the limit of the retry policy
END_SECONDS = 20.0  # for processes to be gone when both programs have ended
JOURNAL_BYTES_MAX = 8_000_000
LOG_BYTES_MAX = 4_000_000
DEAD_ROWS_MAX = 30_000

#: Queries that must find no rows: (what a row means, the query).
FORBIDDEN = (
    ("waits in the queue", "SELECT queue_id, workunit_id, version_id, host_id, purpose FROM queue"),
    ("is leased", "SELECT task_id, host_id FROM tasks WHERE state = 'leased'"),
    ("is not reviewed", "SELECT task_id, host_id FROM tasks WHERE state = 'reported'"),
    ("is not compared", """SELECT workunit_id, state FROM comparisons
        WHERE state IN ('wanted', 'placed', 'disputed')"""),
    ("is good and was not credited", """SELECT t.task_id
        FROM tasks t LEFT JOIN credit c USING (task_id)
        WHERE t.state = 'reviewed' AND t.outcome = 'success' AND t.refusal = ''
          AND t.cpu_seconds > 0 AND t.elapsed_seconds > 0 AND c.task_id IS NULL"""),
    ("is credited and not good", """SELECT c.task_id, t.state, t.outcome, t.refusal
        FROM credit c LEFT JOIN tasks t USING (task_id)
        WHERE t.task_id IS NULL OR t.outcome <> 'success' OR t.state <> 'reviewed'"""),
    ("is credited twice", """SELECT task_id FROM credit GROUP BY task_id HAVING count(*) > 1"""),
    ("has another total than the ledger (user)", """SELECT user_id, credit_total FROM users u
        WHERE credit_total <> COALESCE((SELECT sum(amount) FROM credit c
                                        WHERE c.user_id = u.user_id), 0)"""),
    ("has another total than the ledger (host)", """SELECT host_id, credit_total FROM hosts h
        WHERE credit_total <> COALESCE((SELECT sum(amount) FROM credit c
                                        WHERE c.host_id = h.host_id), 0)"""),
    ("has another total than the ledger (session)", """SELECT session_id, results, credit
        FROM sessions s WHERE (results, credit) <> (
            SELECT count(*), COALESCE(sum(amount), 0) FROM credit c
            WHERE c.session_id = s.session_id)"""),
    ("has reports that wait for ever (host)", """SELECT host_id, pending FROM hosts
        WHERE pending <> 0"""),
    ("is quarantined, and not by staff", """SELECT host_id, state_reason FROM hosts
        WHERE state = 'quarantined'"""),
    ("was charged with a wrong result", "SELECT host_id, note FROM mismatches"),
    ("has a seed twice", """SELECT parameters_id, seed FROM workunits
        GROUP BY parameters_id, seed HAVING count(*) > 1"""),
    ("has two results for one purpose of one host", """SELECT workunit_id, host_id FROM tasks t
        JOIN results r USING (task_id, workunit_id) WHERE purpose = 'first'
        GROUP BY workunit_id, host_id HAVING count(*) > 1"""),
)  # fmt: skip

UNENDED = """
SELECT w.workunit_id, e.name || '@' || v.version, v.state
FROM workunits w JOIN versions v USING (version_id) JOIN experiments e USING (experiment_id)
WHERE NOT EXISTS (SELECT FROM results r WHERE r.workunit_id = w.workunit_id)
  AND NOT EXISTS (SELECT FROM tasks t WHERE t.workunit_id = w.workunit_id
                  AND t.attempt >= %s AND t.outcome IN ('failed', 'timed_out'))"""

TAKEN_BACK = """
SELECT task_id, host_id, extract(epoch FROM ended_at)::float8 FROM tasks
WHERE state = 'lost' ORDER BY task_id"""

#: Two tasks of one purpose at the same time, with the moment at which the second was granted.
GRANTED_TWICE = """
SELECT a.task_id, b.task_id, a.host_id, b.host_id, extract(epoch FROM b.granted_at)::float8
FROM tasks a JOIN tasks b USING (workunit_id, purpose)
WHERE a.granted_at < b.granted_at AND b.granted_at < a.ended_at AND a.state <> 'lost'
  AND NOT EXISTS (SELECT FROM recovered_tasks r WHERE r.task_id IN (a.task_id, b.task_id))
ORDER BY 1, 2"""

#: Workunits of the experiment that always fails, with more failures than the retry policy allows.
#: Not counted are those of quarantined hosts, and those that were recovered after a backup: of the
#: former the policy counts none, and the restored server did not know the latter.
POISONED = f"""
SELECT workunit_id, array_agg(concat_ws(' ', task_id, host_id, t.state, granted_at, ended_at)
    ORDER BY task_id)
FROM tasks t JOIN experiments e USING (experiment_id)
WHERE e.name = '{POISON}' AND outcome = 'failed'
  AND t.refusal NOT LIKE 'this host is quarantined%%'
  AND task_id NOT IN (SELECT task_id FROM recovered_tasks)
GROUP BY workunit_id HAVING count(*) > %s"""

#: A task; after a backup was restored, the one that was recovered under its earlier number.
ENDED = """
SELECT state, outcome, refusal, extract(epoch FROM granted_at)::float8,
    extract(epoch FROM COALESCE(ended_at, granted_at))::float8 FROM tasks WHERE task_id = COALESCE(
    (SELECT max(task_id) FROM recovered_tasks WHERE number_before = %s), %s)"""


def findings(site: Site) -> Iterator[str]:
    """Forbidden states in the database; empty when there are none."""
    for what, query in FORBIDDEN:
        if found := site.rows(query):
            yield f"{len(found)} times something {what}: {found[:5]}"
    yield from _unended(site)
    yield from _taken_back(site)
    yield from _granted_twice(site)
    yield from _acknowledged(site)
    yield from _grown(site)


def _unended(site: Site) -> Iterator[str]:
    """Workunits without a result, except of withdrawn versions and of the one that always fails."""
    for workunit, ref, state in site.rows(UNENDED, ATTEMPTS_MAX):
        if ref not in site.retired:
            yield f"workunit {workunit} of {ref} ({state}) has no result"
    # Staff who resume an experiment let its workunits be tried anew.
    for workunit, tries in site.rows(POISONED, ATTEMPTS_MAX * (1 + site.resumed[POISON])):
        yield (
            f"workunit {workunit}, which always fails, was tried {len(tries)} times; "
            f"task, host, state, granted and ended at: {tries}"
        )


def _taken_back(site: Site) -> Iterator[str]:
    """Tasks that count as lost by a host, although no fault can have caused it."""
    for task_id, host_id, at in site.rows(TAKEN_BACK):
        if not _is_excused(site, host_id, at):
            yield f"task {task_id} was taken from host {host_id} at {_clock(at)}, which had it"


def _granted_twice(site: Site) -> Iterator[str]:
    """Workunits granted again while a host still had them, although it had lost no task."""
    for first, second, host_id, other_id, at in site.rows(GRANTED_TWICE):
        if not _is_excused(site, host_id, at):
            yield (
                f"task {second} of host {other_id} was granted at {_clock(at)}, "
                f"when host {host_id} had the same as task {first}"
            )


def _is_excused(site: Site, host_id: int, at: float) -> bool:
    """Whether a host may have lost its tasks shortly before."""
    windows = [w for a in site.agents if host_id in a.host_ids for w in a.losses_ignored]
    return any(begin <= at <= end for begin, end in windows)


def _clock(at: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(at))


def _acknowledged(site: Site) -> Iterator[str]:
    """Acknowledged successes that are neither credited nor refused with a reason."""
    for task_id, ack in sorted(site.traffic.acknowledged.items()):
        found = site.rows(ENDED, task_id, task_id)
        if _both_forgot(site, ack) and (not found or found[0][1] != "success"):
            continue
        if not found:
            yield f"task {task_id} of {ack.agent} was acknowledged, and is not known"
            continue
        state, outcome, refusal, granted, ended = found[0]
        if state != "reviewed" or (outcome != "success" and not refusal):
            yield (
                f"task {task_id} of {ack.agent} was acknowledged at {_clock(ack.at)}, and is "
                f"{state}: {outcome}; granted and ended at {_clock(granted)}, {_clock(ended)}"
            )
        elif refusal and not _was_quarantined(site, ack.agent):
            yield f"task {task_id} of {ack.agent} was acknowledged, and then refused: {refusal}"


def _both_forgot(site: Site, ack: Acknowledged) -> bool:
    """Whether a backup from before this was restored, and the agent's journal was lost as well."""
    forgot_at = [at for agent in site.agents if agent.name == ack.agent for at in agent.forgot_at]
    return any(begin <= ack.at <= end for begin, end in site.restored) and any(
        ack.at <= at for at in forgot_at
    )


def _was_quarantined(site: Site, name: str) -> bool:
    return any(a.name == name and a.losses_ignored for a in site.agents)


def _grown(site: Site) -> Iterator[str]:
    query = "SELECT relname, n_dead_tup FROM pg_stat_user_tables WHERE n_dead_tup > %s"
    for table, rows in site.rows(query, DEAD_ROWS_MAX):
        yield f"table {table} holds {rows} dead rows"
    for agent in site.agents:
        journal = agent.state / "journal.sqlite"
        if journal.exists() and journal.stat().st_size > JOURNAL_BYTES_MAX:
            yield f"{agent.name}'s journal holds {journal.stat().st_size} bytes"
    for log in (*site.root.rglob("*.log"), *site.root.rglob("*.log.*")):
        if log.is_file() and log.stat().st_size > LOG_BYTES_MAX:
            yield f"{log.relative_to(site.root)} holds {log.stat().st_size} bytes"


# --- after both programs have ended ---------------------------------------------------------------


def leftovers(site: Site) -> Iterator[str]:
    """Processes, sockets, folders and locks that should have been removed."""
    until = time.monotonic() + END_SECONDS
    while (alive := site.processes()) and time.monotonic() < until:
        time.sleep(0.2)
    for process in alive:
        with suppress(Exception):
            yield f"process {process.pid} lives: {' '.join(process.cmdline())[:200]}"
    for agent in site.agents:
        yield from _of_agent(agent)
    for path in (site.root / "tmp").iterdir():
        yield f"{path.name} is left in the temporary folder"
    abandoned = [p for p in site.project_disk.glob("project*") if p != site.staff.folder]
    for path in site.root.rglob("*"):
        if any(path.is_relative_to(folder) for folder in abandoned):
            continue  # the project was restored into another folder
        if path.is_socket() or path.suffix == ".partial" or path.name.endswith(".tmp"):
            yield f"{path.relative_to(site.root)} is left"


def _of_agent(agent: Agent) -> Iterator[str]:
    for folder in (agent.state / "tasks").iterdir():
        yield f"{agent.name} keeps the folder of task {folder.name}"
    with (agent.state / "agent.lock").open("rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield f"{agent.name}'s folder is locked"
    for table, rows in _journal(agent).items():
        if rows:
            yield f"{agent.name}'s journal keeps {table}: {rows[:3]}"


def _journal(agent: Agent) -> dict[str, list[Any]]:
    database = sqlite3.connect(agent.state / "journal.sqlite")
    try:
        found = {
            table: [row[0] for row in database.execute(f"SELECT task_id FROM {table}")]
            for table in ("tasks", "reports")
        }
        kept = database.execute("SELECT key FROM kept WHERE key IN ('request', 'drain', 'pause')")
        return found | {"kept": [row[0] for row in kept]}
    finally:
        database.close()
