"""Atom feeds (RFC 4287) of findings and of sessions."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from xml.etree import ElementTree

from axiom_server.pages.environment import whole
from axiom_server.store import sessions as store_sessions
from axiom_server.store.database import Connection, rows

ENTRIES = 50  # newest entries in a feed
ATOM = "http://www.w3.org/2005/Atom"

#: Makes a feed of (connection, project name, the server's address).
Make = Callable[[Connection, str, str], Awaitable[bytes]]


async def findings(connection: Connection, project: str, url: str) -> bytes:
    """Verdicts, the latest first; a changed verdict is a new entry."""
    found = await rows(
        connection,
        """SELECT e.name, v.version, f.finding, f.verdict, f.judged_at
           FROM finding_values f JOIN versions v USING (version_id)
           JOIN experiments e USING (experiment_id)
           ORDER BY f.judged_at DESC, e.name, f.finding LIMIT %s""",
        (ENTRIES,),
    )
    feed = _feed(f"{project}: findings", f"{url}/feeds/findings.atom",
                 found[0][4] if found else None)  # fmt: skip
    for name, version, finding, verdict, judged_at in found:
        page = f"{url}/experiments/{name}/{version}#{finding}"
        title = f"{verdict['verdict']}: {verdict['claim']}"
        _entry(feed, f"{page}:{verdict['verdict']}", page, title, judged_at, verdict["reason"])
    return _bytes(feed)


async def sessions(connection: Connection, project: str, url: str) -> bytes:
    """Sessions, the latest first."""
    found = await store_sessions.latest(connection, ENTRIES)
    feed = _feed(f"{project}: sessions", f"{url}/feeds/sessions.atom",
                 found[0].opened_at if found else None)  # fmt: skip
    for line in found:
        page = f"{url}/sessions/{line.session_id}"
        text = f"{whole(line.results)} results, {whole(float(line.credit))} credit"
        _entry(feed, page, page, f"Session {line.session_id}", line.opened_at, text)
    return _bytes(feed)


def _feed(title: str, url: str, updated: datetime | None) -> ElementTree.Element:
    feed = ElementTree.Element("feed", xmlns=ATOM)
    _text(feed, "title", title)
    _text(feed, "id", url)
    _text(feed, "updated", _moment(updated or datetime.fromtimestamp(0, UTC)))
    ElementTree.SubElement(feed, "link", rel="self", href=url)
    _text(ElementTree.SubElement(feed, "author"), "name", title.partition(":")[0])
    return feed


def _entry(
    feed: ElementTree.Element, entry_id: str, page: str, title: str, updated: datetime, text: str
) -> None:
    entry = ElementTree.SubElement(feed, "entry")
    _text(entry, "title", title)
    _text(entry, "id", entry_id.replace(" ", "-"))
    _text(entry, "updated", _moment(updated))
    ElementTree.SubElement(entry, "link", rel="alternate", href=page)
    _text(entry, "summary", text)


def _text(parent: ElementTree.Element, name: str, text: str) -> None:
    ElementTree.SubElement(parent, name).text = text


def _moment(value: datetime) -> str:
    return value.astimezone(UTC).isoformat(timespec="seconds")


def _bytes(feed: ElementTree.Element) -> bytes:
    made: bytes = ElementTree.tostring(feed, encoding="utf-8", xml_declaration=True)
    return made
