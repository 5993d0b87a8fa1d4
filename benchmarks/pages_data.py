"""A large project for benchmarks.pages: made by SQL in a project folder, and kept to be used again.

A small project is published, deployed and reviewed by the programs themselves; everything else is
added to its tables as they would be by then.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import psycopg

from axiom_server.project_folder import ProjectFolder
from axiom_server.review.review import review
from axiom_server.store.database import connect
from benchmarks import load
from tests.support.server_project import ServerProject

EXPERIMENT = load.ROOT / "tests" / "fixtures" / "experiments" / "short_walk.py"
HOSTS_PER_USER = 5
RESULTS_PER_SESSION = 10_000
TEAMS = 200
STORED_RESULTS = 20_000  # whose numbers are here; the others' were of experiments of before
LEASED_PER_HOST = 2
QUEUED_PER_HOST = 3
COOKIES = b"axiom_session=bench; axiom_staff=bench"  # of sessions that FRESHEN begins
SYNCING = 50  # hosts that hold no task, so that their syncs are the least that there is

#: Users, hosts, teams, sessions over 60 days, tasks, the ledger, results, a queue.
DATA = """
INSERT INTO teams (name) SELECT 'team ' || i FROM generate_series(1, {teams}) i;
INSERT INTO users (user_id, name, account_key, team_id, average, average_at, created_at)
SELECT 1000 + i, 'volunteer ' || i, sha256(('key' || i)::bytea),
       CASE WHEN i % 3 = 0 THEN 1 + i % {teams} END, 1 + random() * 1000,
       now() - random() * interval '20 days', now() - interval '90 days'
FROM generate_series(0, {users} - 1) i;
INSERT INTO hosts (host_id, user_id, name, token, cpu_cores, gpus, memory_bytes, environments,
                   idle_cpu, last_seen_at, average, average_at, facts)
SELECT 1000 + i, 1000 + i % {users}, 'host ' || i, sha256(('token' || i)::bytea), 8, i % 2,
       1::bigint << 34, '{{numpy,torch}}', i % 8, now() - random() * interval '1 hour',
       random() * 100, now(),
       jsonb_build_object('os', 'linux', 'architecture', 'x86_64', 'gpus', '[]'::jsonb)
FROM generate_series(0, {hosts} - 1) i;
INSERT INTO sessions (session_id, opened_at, results, credit, record)
SELECT 1000 + i, now() - interval '60 days' * (1 - i / {sessions}::float8), {per_session},
       5 * {per_session}, (SELECT record FROM sessions WHERE session_id = 1)
FROM generate_series(0, {sessions} - 1) i;
INSERT INTO deployments (session_id, deployed_at, kind, workunits, record)
SELECT session_id, opened_at, 'hosts', 10 * {per_session}, jsonb_build_object(
    'pool', 0, 'parameters', '[{{}}]'::jsonb,
    'experiments', (SELECT record -> 'experiments' FROM deployments WHERE deployment_id = 1),
    'hosts', (SELECT jsonb_agg(jsonb_build_array(1000 + h, 8, h % 2))
              FROM generate_series(0, LEAST({per_session}, {hosts}) - 1) h))
FROM sessions WHERE session_id IN (1000, 1001);
INSERT INTO tasks (task_id, experiment_id, version_id, host_id, user_id, state, granted_at,
                   deadline_at, ended_at, outcome, claimed_seconds, elapsed_seconds)
SELECT 1000 + i, 1 + i % 2, 1 + i % 2, 1000 + i % {hosts}, 1000 + (i % {hosts}) % {users},
       'reviewed', now(), now(), now() - interval '1 day', 'success', 200, 200
FROM generate_series(0, {results} - 1) i;
INSERT INTO credit (task_id, user_id, host_id, session_id, experiment_id, elapsed_seconds, amount)
SELECT task_id, user_id, host_id, 1000 + (task_id - 1000) / {per_session}, experiment_id, 200, 5
FROM tasks WHERE task_id >= 1000;
INSERT INTO workunits (workunit_id, version_id, parameters_id, seed, deployment_id, device)
SELECT 1000 + i, 1, (SELECT min(parameters_id) FROM parameter_sets WHERE version_id = 1), 1000 + i,
       1, 'cpu' FROM generate_series(0, {stored} - 1) i;
UPDATE tasks SET workunit_id = 1000 + (task_id - 1000) / 2
WHERE task_id >= 1000 AND task_id < 1000 + 2 * {stored} AND version_id = 1;
INSERT INTO results (task_id, workunit_id, version_id, valid, digest, result, validated)
SELECT task_id, workunit_id, 1, 1, sha256(task_id::text::bytea), jsonb_build_object(
    'valid', 1, 'configs_done', 3, 'exponent', 0.5 + 0.02 * random()), true
FROM tasks WHERE task_id >= 1000 AND workunit_id IS NOT NULL;
SELECT setval(pg_get_serial_sequence('tasks', 'task_id'), (SELECT max(task_id) FROM tasks) + 1);
INSERT INTO tasks (experiment_id, version_id, host_id, user_id, state, granted_at, deadline_at)
SELECT 1 + i % 2, 1 + i % 2, 1000 + i % {hosts}, 1000 + (i % {hosts}) % {users}, 'leased', now(),
       now() + interval '30 days' FROM generate_series(0, {leased} - 1) i
WHERE i % {hosts} > {syncing};
INSERT INTO tasks (experiment_id, version_id, host_id, user_id, state, granted_at, deadline_at,
                   ended_at, outcome, claimed_seconds, elapsed_seconds, cpu_seconds)
SELECT 1, 1, 1000 + i % {hosts}, 1000 + (i % {hosts}) % {users}, 'reported', now(), now(), now(),
       'success', 200, 200, 200 FROM generate_series(0, {per_session} - 1) i;
INSERT INTO queue (workunit_id, version_id, device, host_id, release_at)
SELECT 1000000000 + i, 1 + i % 2, 'cpu', CASE WHEN i % 2 = 0 THEN 1000 + i % {hosts} END,
       CASE WHEN i % 2 = 0 THEN now() + interval '30 days' END
FROM generate_series(0, {queued} - 1) i WHERE i % {hosts} > {syncing};
SELECT setval(pg_get_serial_sequence('sessions', 'session_id'), 1000 + {sessions});
TRUNCATE user_sessions, host_sessions, user_experiments, host_outcomes;
INSERT INTO user_sessions SELECT user_id, session_id, count(*), sum(amount),
       count(DISTINCT host_id), (array_agg(DISTINCT host_id))[1:3] FROM credit GROUP BY 1, 2;
INSERT INTO host_sessions SELECT host_id, session_id, count(*), sum(amount) FROM credit
GROUP BY 1, 2;
INSERT INTO user_experiments SELECT user_id, experiment_id, count(*), sum(amount) FROM credit
GROUP BY 1, 2;
INSERT INTO host_outcomes SELECT host_id, outcome, count(*) FROM tasks WHERE state = 'reviewed'
GROUP BY 1, 2;
UPDATE users u SET credit_total = c.s FROM (
    SELECT user_id, sum(amount) AS s FROM credit GROUP BY 1) c WHERE c.user_id = u.user_id;
UPDATE hosts h SET credit_total = c.s FROM (
    SELECT host_id, sum(amount) AS s FROM credit GROUP BY 1) c WHERE c.host_id = h.host_id;
"""

#: No comparison is under way, as their placing is not what is measured here.
#: Moves what pages hold against the clock to today: kept data may be of last week.
FRESHEN = """
INSERT INTO staff (name, key) VALUES ('bench', sha256('bench key')) ON CONFLICT DO NOTHING;
INSERT INTO staff_sessions VALUES (sha256('bench'), 'bench', now() + interval '1 day')
ON CONFLICT (token) DO UPDATE SET expires_at = excluded.expires_at;
INSERT INTO web_sessions VALUES (sha256('bench'), 1007, now() + interval '1 day')
ON CONFLICT (token) DO UPDATE SET expires_at = excluded.expires_at;
UPDATE comparisons SET state = 'agreed' WHERE state <> 'agreed';
UPDATE hosts SET last_seen_at = now() - (host_id % 60) * interval '1 minute'
WHERE (SELECT max(last_seen_at) FROM hosts) < now() - interval '10 minutes';
UPDATE sessions SET opened_at = opened_at + (SELECT now() - max(opened_at) FROM sessions)
WHERE (SELECT max(opened_at) FROM sessions) < now() - interval '1 hour';
"""


def prepare(folder: Path, hosts: int, results: int) -> ProjectFolder:
    """The project in ``folder``, made when it is not there, with its data of today."""
    made = folder / "made"
    if not made.exists():
        load.staff(folder, "init", str(folder))
        load.staff(folder, "publish", "--skip", "dry-run", str(EXPERIMENT))
        fill(ProjectFolder(folder), hosts, results)
        made.write_text(f"{hosts} {results}")
    if made.read_text() != f"{hosts} {results}":
        raise SystemExit(f"{folder} holds another size: {made.read_text()}; remove it")
    project = ProjectFolder(folder)
    with project.database() as conninfo, psycopg.connect(conninfo) as connection:
        connection.execute(FRESHEN.encode())
    return project


def fill(project: ProjectFolder, hosts: int, results: int) -> None:
    """A small reviewed project, then everything else by SQL, then one more review."""
    began = time.perf_counter()
    with project.database() as conninfo:
        _small_project(conninfo)
        script = _script(hosts, results)
        with psycopg.connect(conninfo, autocommit=True) as connection:
            connection.execute(script.encode())
            connection.execute("VACUUM ANALYZE")
        print(f"{hosts:,} hosts, {results:,} results: {time.perf_counter() - began:.0f} s")
        asyncio.run(_review(conninfo, project))


def _small_project(conninfo: str) -> None:
    small = ServerProject(conninfo)
    small.publish("short_walk", name="second_walk")
    small.deploy("short_walk", count=20)
    host = small.host("first", cores=20)
    host.sync()
    small.later(60)
    host.succeed_all(cpu=0)
    small.review()


def _script(hosts: int, results: int) -> str:
    per_session = min(results, RESULTS_PER_SESSION)
    return DATA.format(
        hosts=hosts, users=max(1, hosts // HOSTS_PER_USER), results=results, teams=TEAMS,
        sessions=max(1, results // RESULTS_PER_SESSION), per_session=per_session,
        stored=min(STORED_RESULTS, results // 2), leased=hosts * LEASED_PER_HOST,
        queued=hosts * QUEUED_PER_HOST, syncing=SYNCING,
    )  # fmt: skip


async def _review(conninfo: str, project: ProjectFolder) -> None:
    """The last session is the program's own, with a record of today's form."""
    began = time.perf_counter()
    async with connect(conninfo) as connection:
        log = await review(connection, project.config())
    print(f"review of {log.results:,} results: {time.perf_counter() - began:.1f} s")
