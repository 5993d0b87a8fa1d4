"""Studies: their declaration, their parameter sets, their workunits and results."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

import msgspec

from axiom_protocol.verdicts.study_design import StudyDesign
from axiom_protocol.verdicts.study_verdicts import Cell
from axiom_server.store.database import Connection, row, rows
from axiom_server.store.findings import ALONE, COUNTS


class StudyRow(NamedTuple):
    """A study with its decoded design. ``state``: pilot while its grid may grow, then judged."""

    study_id: int
    name: str
    version_id: int
    design: StudyDesign
    digest: str
    declared_at: datetime
    first_seed: int
    rounds: int
    state: str
    more_seeds: int

    @property
    def pilot(self) -> tuple[int, int]:
        """First and last seed of the pilot, which chooses parameter sets."""
        return self.first_seed, self.first_seed + self.design.pilot_seeds - 1

    @property
    def judged(self) -> tuple[int, int]:
        """First and last seed by which the findings are judged."""
        first = self.first_seed + self.design.pilot_seeds
        return first, first + self.design.seeds + self.more_seeds - 1


_COLUMNS = """study_id, name, version_id, design, digest, declared_at, first_seed, rounds, state,
              more_seeds"""
_STUDY = f"SELECT {_COLUMNS} FROM studies"


def _study(found: Sequence[Any]) -> StudyRow:
    return StudyRow._make((*found[:3], msgspec.convert(found[3], StudyDesign), *found[4:]))


async def listing(connection: Connection) -> list[StudyRow]:
    """Every study, in the order of declaration."""
    return [_study(r) for r in await rows(connection, f"{_STUDY} ORDER BY study_id")]


async def by_name(connection: Connection, name: str) -> StudyRow | None:
    """The study of that name."""
    found = await rows(connection, f"{_STUDY} WHERE name = %s", (name,))
    return _study(found[0]) if found else None


async def growing(connection: Connection) -> list[StudyRow]:
    """Studies whose pilot runs, locked against other processes that would advance them."""
    found = await rows(
        connection, f"{_STUDY} WHERE state = 'pilot' ORDER BY study_id FOR UPDATE SKIP LOCKED"
    )
    return [_study(r) for r in found]


async def add(
    connection: Connection, design: StudyDesign, version_id: int, first_seed: int
) -> StudyRow | None:
    """Store a declaration; None when the name is taken."""
    found = await rows(
        connection,
        f"""INSERT INTO studies (name, version_id, design, digest, first_seed, state)
            VALUES (%s, %s, %s::jsonb, %s, %s, %s) ON CONFLICT (name) DO NOTHING
            RETURNING {_COLUMNS}""",
        (
            design.name, version_id, msgspec.json.encode(design).decode(), design.digest,
            first_seed, "pilot" if design.refine else "judged",
        ),
    )  # fmt: skip
    return _study(found[0]) if found else None


async def unused_seed(connection: Connection, version_id: int) -> int:
    """The first seed that no version of the experiment has issued, with any parameters."""
    found = await row(
        connection,
        """SELECT COALESCE(max(p.next_seed), 1) FROM versions mine
           JOIN versions v USING (experiment_id)
           JOIN parameter_sets p ON p.version_id = v.version_id WHERE mine.version_id = %s""",
        (version_id,),
    )
    return int(found[0])


async def add_sets(connection: Connection, study_id: int, parameters: Sequence[int]) -> None:
    """Append parameter sets to a study; those that it has already are left out."""
    await connection.execute(
        """INSERT INTO study_sets (study_id, position, parameters_id)
           SELECT %(study)s, n - 1 + (SELECT count(*) FROM study_sets WHERE study_id = %(study)s), p
           FROM unnest(%(parameters)s::bigint[]) WITH ORDINALITY AS a (p, n)
           WHERE NOT EXISTS (SELECT FROM study_sets s
                             WHERE s.study_id = %(study)s AND s.parameters_id = p)""",
        {"study": study_id, "parameters": list(parameters)},
    )


async def sets(connection: Connection, study_id: int) -> list[tuple[int, dict[str, Any]]]:
    """(id, parameters as given) of the study's sets, by position."""
    found = await rows(
        connection,
        """SELECT p.parameters_id, p.parameters FROM study_sets s
           JOIN parameter_sets p USING (parameters_id) WHERE s.study_id = %s ORDER BY position""",
        (study_id,),
    )
    return [(int(i), parameters) for i, parameters in found]


async def advance(connection: Connection, study_id: int, rounds: int, state: str) -> None:
    """Store the number of refinement rounds, and the state that follows."""
    await connection.execute(
        "UPDATE studies SET rounds = %s, state = %s WHERE study_id = %s", (rounds, state, study_id)
    )


async def extend(connection: Connection, study_id: int, seeds: int) -> None:
    """Add seeds beyond those declared; this is allowed because verdicts are valid at any time."""
    await connection.execute(
        "UPDATE studies SET more_seeds = more_seeds + %s WHERE study_id = %s", (seeds, study_id)
    )


async def issue_block(
    connection: Connection, version_id: int, parameters: Sequence[int], seeds: tuple[int, int],
    deployment_id: int,
) -> int:  # fmt: skip
    """Queue each of these parameter sets with each seed, for any host; returns how many.

    Workunits that exist already are left unchanged. The sets of one seed are neighbours in the
    queue, so that complete maps are available early.
    """
    values = {
        "version": version_id, "parameters": list(parameters), "first": seeds[0],
        "last": seeds[1], "deployment": deployment_id,
    }  # fmt: skip
    made = await row(
        connection,
        """WITH made AS (
               INSERT INTO workunits (version_id, parameters_id, seed, deployment_id, device)
               SELECT %(version)s, p, s, %(deployment)s, 'cpu'
               FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS s
               CROSS JOIN unnest(%(parameters)s::bigint[]) WITH ORDINALITY AS a (p, n)
               ORDER BY s, n
               ON CONFLICT (parameters_id, seed) DO NOTHING
               RETURNING workunit_id, version_id, seed, device
           ), queued AS (
               INSERT INTO queue (workunit_id, version_id, device)
               SELECT workunit_id, version_id, device FROM made ORDER BY seed, workunit_id
           )
           SELECT count(*) FROM made""",
        values,
    )
    await connection.execute(
        """UPDATE parameter_sets SET next_seed = GREATEST(next_seed, %(last)s + 1)
           WHERE parameters_id = ANY(%(parameters)s)""",
        values,
    )
    return int(made[0])


async def count_out(connection: Connection, study: StudyRow, seeds: tuple[int, int]) -> int:
    """How many workunits of these seeds are queued or leased."""
    found = await row(
        connection,
        """SELECT count(*) FROM study_sets s JOIN workunits w USING (parameters_id)
           WHERE s.study_id = %s AND w.seed BETWEEN %s AND %s AND (
               EXISTS (SELECT FROM queue q WHERE q.workunit_id = w.workunit_id
                                             AND q.purpose = 'first')
               OR EXISTS (SELECT FROM tasks t WHERE t.workunit_id = w.workunit_id
                          AND t.state = 'leased' AND t.purpose = 'first'))""",
        (study.study_id, *seeds),
    )
    return int(found[0])


async def count_unsettled(connection: Connection, study: StudyRow, seeds: tuple[int, int]) -> int:
    """Number of workunits of these seeds whose results wait for a comparison."""
    found = await row(
        connection,
        """SELECT count(*) FROM study_sets s JOIN workunits w USING (parameters_id)
           JOIN comparisons c USING (workunit_id)
           WHERE s.study_id = %s AND w.seed BETWEEN %s AND %s
             AND c.state IN ('wanted', 'placed', 'disputed')""",
        (study.study_id, *seeds),
    )
    return int(found[0])


async def cells(
    connection: Connection, study: StudyRow, fields: Sequence[str], seeds: tuple[int, int]
) -> list[Cell]:
    """The valid results that count, one for each parameter set and seed."""
    found = await rows(
        connection,
        f"""SELECT DISTINCT ON (s.position, w.seed) s.position, w.seed,
                  ARRAY(SELECT (r.result ->> f)::float8 FROM unnest(%(fields)s::text[])
                        WITH ORDINALITY AS a (f, n) ORDER BY n)
           FROM study_sets s JOIN workunits w USING (parameters_id)
           JOIN results r ON r.workunit_id = w.workunit_id
           CROSS JOIN {ALONE} AS a (alone)
           LEFT JOIN comparisons c ON c.workunit_id = r.workunit_id
           WHERE s.study_id = %(study)s AND w.seed BETWEEN %(first)s AND %(last)s
             AND r.valid = 1 AND {COUNTS}
             AND NOT (COALESCE(c.state, '') IN ('disputed', 'given_up') AND c.note <> '')
           ORDER BY s.position, w.seed, r.task_id""",
        {"study": study.study_id, "fields": list(fields), "first": seeds[0], "last": seeds[1]},
    )
    return [
        Cell(position=position, seed=seed, values=dict(zip(fields, values, strict=True)))
        for position, seed, values in found
    ]
