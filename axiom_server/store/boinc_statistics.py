"""The content of BOINC's statistics files, element by element.

Source: BOINC's db_dump.cpp and its page XmlStats. As there, hidden volunteers and their hosts are
left out of the lists but counted in the totals, and volunteers without credit are in neither. The
database produces the XML row by row, so that the serving process only copies and compresses it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from psycopg import sql

from axiom_server.store.database import Connection

#: The cross-project identifier. E-mail addresses are not known, so it differs between projects.
_CPID = "md5('axiom-' || {0} || '-' || {1} || '-' || extract(epoch FROM {2})::bigint)"
_NOW = "extract(epoch FROM now())::bigint"


def _escaped(value: str) -> str:
    """SQL for a text with XML's special characters escaped and control characters left out."""
    plain = rf"regexp_replace({value}, '[\x01-\x08\x0b\x0c\x0e-\x1f\x7f]', '', 'g')"
    for character, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        plain = f"replace({plain}, '{character}', '{entity}')"
    return plain


def _seconds(value: str) -> str:
    return f"COALESCE(extract(epoch FROM {value})::bigint, 0)::text"


def _number(value: str) -> str:
    return f"to_char(({value})::float8, 'FM9999999999999990.000000')"


def _element(name: str, fields: dict[str, str]) -> str:
    """SQL for one element. A field that is NULL is left out."""
    parts = " || ".join(
        f"COALESCE('  <{field}>' || {value} || '</{field}>' || chr(10), '')"
        for field, value in fields.items()
    )
    return f"'<{name}>' || chr(10) || {parts} || '</{name}>' || chr(10)"


USER = _element("user", {
    "id": "u.user_id::text",
    "name": _escaped("u.name"),
    "create_time": _seconds("u.created_at"),
    "total_credit": _number("u.credit_total"),
    "expavg_credit": _number("u.average"),
    "expavg_time": _seconds("u.average_at"),
    "cpid": _CPID.format("'user'", "u.user_id", "u.created_at"),
    "teamid": "u.team_id::text",
})  # fmt: skip
HOST = _element("host", {
    "id": "h.host_id::text",
    "userid": "h.user_id::text",
    "total_credit": _number("h.credit_total"),
    "expavg_credit": _number("h.average"),
    "expavg_time": _seconds("h.average_at"),
    "p_vendor": "''::text",
    "p_model": _escaped("COALESCE(h.facts ->> 'cpu_model', h.facts ->> 'architecture', '')"),
    "os_name": _escaped("COALESCE(h.facts ->> 'os', '')"),
    "os_version": "''::text",
    "coprocs": f"NULLIF((SELECT string_agg({_escaped('g ->> $$name$$')}, ', ') FROM "
               "jsonb_array_elements(h.facts -> 'gpus') AS g), '')",
    "create_time": _seconds("h.created_at"),
    "rpc_time": _seconds("h.last_seen_at"),
    "timezone": "'0'::text",
    "ncpus": "h.cpu_cores::text",
    "m_nbytes": _number("h.memory_bytes"),
    "host_cpid": _CPID.format("'host'", "h.host_id", "h.created_at"),
})  # fmt: skip
TEAM = _element("team", {
    "id": "t.team_id::text",
    "type": "'1'::text",
    "name": _escaped("t.name"),
    "userid": "COALESCE(f.user_id, 0)::text",
    "total_credit": _number("m.credit"),
    "expavg_credit": _number("m.average"),
    "expavg_time": f"{_NOW}::text",
    "nusers": "m.members::text",
    "founder_name": _escaped("f.name"),
    "create_time": _seconds("t.created_at"),
    "country": "'International'::text",
})  # fmt: skip

#: File -> its root element, and the query of its elements in order.
FILES = {
    "user": ("users", f"""SELECT {USER} FROM users u WHERE u.shown AND u.credit_total > 0
             ORDER BY u.user_id"""),
    "host": ("hosts", f"""SELECT {HOST} FROM hosts h JOIN users u USING (user_id)
             WHERE u.shown AND h.credit_total > 0 ORDER BY h.host_id"""),
    "team": ("teams", f"""SELECT {TEAM} FROM teams t
             LEFT JOIN users f ON f.user_id = t.founder_id AND f.shown,
             LATERAL (SELECT count(*) AS members, COALESCE(sum(credit_total), 0) AS credit,
                      COALESCE(sum(average * exp(-ln(2) * GREATEST(0, extract(
                          epoch FROM now() - average_at))::float8 / 604800)), 0) AS average
                      FROM users WHERE users.team_id = t.team_id) m ORDER BY t.team_id"""),
}  # fmt: skip

TABLES = f"""SELECT '<tables>' || chr(10) ||
    '  <update_time>' || {_NOW} || '</update_time>' || chr(10) ||
    '  <nusers_total>' || (SELECT count(*) FROM users WHERE credit_total > 0)
        || '</nusers_total>' || chr(10) ||
    '  <nteams_total>' || (SELECT count(*) FROM teams) || '</nteams_total>' || chr(10) ||
    '  <nhosts_total>' || (SELECT count(*) FROM hosts
        WHERE credit_total > 0 AND user_id IS NOT NULL)
        || '</nhosts_total>' || chr(10) ||
    '  <total_credit>' || {_number("(SELECT COALESCE(sum(credit_total), 0) FROM users)")}
        || '</total_credit>' || chr(10) ||
    '  <applications>' || chr(10) || COALESCE((SELECT string_agg(
        '    <application><id>' || experiment_id || '</id><name>' || name || '</name></application>'
        || chr(10), '' ORDER BY name) FROM experiments), '') || '  </applications>' || chr(10) ||
    '</tables>' || chr(10)"""

HEADER = '<?xml version="1.0" encoding="UTF-8"?>\n'


async def elements(connection: Connection, file: str) -> AsyncIterator[str]:
    """The pieces of one of FILES, or of "tables"."""
    yield HEADER
    root, query = FILES.get(file, ("", TABLES))
    if root:
        yield f"<{root}>\n"
    async with connection.cursor(name="statistics") as cursor:
        cursor.itersize = 1000
        await cursor.execute(sql.SQL(query))  # composed above, of constants only
        async for (text,) in cursor:
            yield text
    if root:
        yield f"</{root}>\n"
