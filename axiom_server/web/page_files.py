"""The routes of the public files: data, pictures, feeds, archives, badges and assets."""

from __future__ import annotations

import asyncio
import gzip
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import cast

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from axiom_protocol import __version__
from axiom_protocol.manifest import Finding
from axiom_server.config import Config
from axiom_server.pages import (
    assets,
    awards,
    chart,
    experiments,
    feeds,
    status,
    studies,
)
from axiom_server.pages.chart import Theme
from axiom_server.pages.experiments import Size
from axiom_server.store import experiments as stored_experiments
from axiom_server.store import finding_values, session_sums, statistics
from axiom_server.store import studies as stored_studies
from axiom_server.store import volunteers as shown_volunteers
from axiom_server.store.database import Connection, Pool
from axiom_server.store.experiments import VersionRow
from axiom_server.store.finding_values import FindingValues
from axiom_server.store.statistics import DayLine
from axiom_server.transfer import experiment_archive
from axiom_server.transfer.experiment_archive import Archive
from axiom_server.transfer.finding_data import COLUMN_TYPES, as_csv, as_json
from axiom_server.transfer.parquet import to_parquet
from axiom_server.transfer.table_file import Table, converted, read_csv
from axiom_server.trust.repository import Repository
from axiom_server.web.page_limits import KeptFiles
from axiom_server.web.page_response import (
    FOR_EVER,
    SAFE_HEADERS,
    has_tag,
    not_modified,
    public_file,
    tag_of,
)
from axiom_server.web.paths import NUMBER, number_of, text_of
from axiom_server.web.refused import Refused

#: The files of a finding: its picture, large and small, and the numbers behind it.
FINDING_FILE = re.compile(
    r"(?P<finding>[a-z][a-z0-9_]{0,63})\.(?:(?:(?P<size>small|narrow)\.)?(?P<theme>light|dark)\.svg"
    r"|(?P<data>csv|json|parquet))"
)
CHART_FILE = re.compile(
    r"(?P<owner>[a-z0-9_]{1,64})\.(?:(?P<narrow>narrow\.)?(?P<theme>light|dark)\.svg|csv)", re.ASCII
)
CHART_KINDS = {"users": "user", "hosts": "host", "teams": "team", "experiments": "experiment"}
SVG, JSON, XML, ATOM = "image/svg+xml", "application/json", "text/xml", "application/atom+xml"
PARQUET = "application/vnd.apache.parquet"
#: Kinds of data files, with their media types.
DATA_TYPES = {"csv": "text/csv; charset=utf-8", "json": JSON, "parquet": PARQUET}
PICTURE_TYPES = {"svg": SVG, "png": "image/png"}
#: Columns of the numbers behind a declared figure -> their DuckDB types.
VALUE_TYPES = {
    "seed": "BIGINT", "y_path": "VARCHAR", "label": "VARCHAR", "x": "DOUBLE", "y": "DOUBLE",
    "z": "DOUBLE",
}  # fmt: skip
SESSION_TABLES = {
    "credit": (session_sums.CREDIT_COLUMNS, session_sums.CREDIT),
    "hosts": (session_sums.HOST_COLUMNS, session_sums.HOSTS),
}
ARCHIVES = 2  # read at once; each keeps a processor busy with packing
ARCHIVE_RETRY_SECONDS = 60.0
CHART_DAYS = 31  # one more than drawn, for the day's beginning


@dataclass(frozen=True, kw_only=True)
class PageFiles:
    """The handlers of the public files. One per serving process."""

    config: Config
    pool: Pool
    bundles: Repository
    kept: KeptFiles = field(default_factory=KeptFiles)
    archives: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(ARCHIVES))

    def routes(self) -> list[Route]:
        """Every public file."""
        return [
            Route("/experiments/{name}/{version}/{file}", self.experiment_file),
            Route("/experiments/{name}/{version}/figures/{file}", self.figure_file),
            Route("/studies/{name}/{file}", self.study_file),
            Route("/users/{number}/badge.svg", self.badge),
            Route("/users/{number}/certificate.svg", self.certificate),
            Route("/sessions/{number}/{file}", self.session_file),
            Route("/status.json", self.status_json),
            Route("/status.xml", self.status_xml),
            Route("/feeds/findings.atom", self.findings_feed),
            Route("/feeds/sessions.atom", self.sessions_feed),
            Route("/charts/{kind}/{file}", self.chart_of),
            Route("/charts/{file}", self.chart_of_project),
            Route("/static/{name}", self.asset),
        ]

    async def experiment_file(self, request: Request) -> Response:
        """``GET /experiments/NAME/VERSION/FILE``: the script, a chart, or a finding's data."""
        name, version = request.path_params["name"], request.path_params["version"]
        file = request.path_params["file"]
        matched = FINDING_FILE.fullmatch(file)
        if matched is None:
            return await self._script_or_archive(request, name, version, file)
        async with self.pool.connection() as connection:
            key = await experiments.key_of_values(connection, name, version, matched["finding"])
            if key is None:
                raise Refused(404, "No such finding")
            tag = tag_of(f"{__version__} {key} {file}".encode())
            if has_tag(request, tag):
                return not_modified(tag)
            made, found = self.kept.get(tag), None
            if made is None:
                found = await experiments.values_of(connection, name, version, matched["finding"])
        if made is None and found is not None:
            made = await asyncio.to_thread(_finding_file, matched, *found)
            if made is not None:
                self.kept.put(tag, made)
        if made is None:
            raise Refused(404, "This server writes no Parquet", "Use the CSV or the JSON.")
        kind = SVG if matched["theme"] else DATA_TYPES[matched["data"]]
        return public_file(request, made, kind, tag=tag)

    async def figure_file(self, request: Request) -> Response:
        """``GET /experiments/NAME/VERSION/figures/FILE``: a declared figure, or its numbers."""
        name, version = request.path_params["name"], request.path_params["version"]
        file = text_of(request, "file", "No such figure")
        figure, _, kind = file.rpartition(".")
        stored = f"{figure}.csv" if kind in DATA_TYPES else file
        async with self.pool.connection() as connection:
            found = await experiments.figure_file(connection, name, version, stored)
        if found is None:
            raise Refused(404, "No such figure", "Figures are drawn soon after a review.")
        if kind not in DATA_TYPES:
            return public_file(request, found, "image/png")
        return await self._data(request, gzip.decompress(found), VALUE_TYPES, kind)

    async def _data(
        self, request: Request, text: bytes, columns: Mapping[str, str], kind: str
    ) -> Response:
        """A CSV as the kind of file that is asked for."""
        made = await converted(text, columns, kind)
        if made is None:
            raise Refused(404, "This server writes no Parquet", "Use the CSV or the JSON.")
        return public_file(request, made, DATA_TYPES[kind])

    async def study_file(self, request: Request) -> Response:
        """``GET /studies/NAME/FILE``: a picture, a table, or the declaration."""
        file = text_of(request, "file", "No such file of a study")
        name, _, kind = file.rpartition(".")
        async with self.pool.connection() as connection:
            study = await stored_studies.by_name(
                connection, text_of(request, "name", "No such study")
            )
            if study is None:
                raise Refused(404, "No such study")
            if file == "design.json":
                return public_file(request, msgspec.json.encode(study.design), JSON)
            if kind in DATA_TYPES:
                table = await studies.table(connection, study, name)
            else:
                picture = await studies.picture(connection, study, file)
        if kind in DATA_TYPES and table is not None:
            return await self._data(request, *table, kind)
        if kind in PICTURE_TYPES and picture is not None:
            return public_file(request, picture, PICTURE_TYPES[kind])
        raise Refused(404, "No such file of a study", "Pictures are drawn soon after a result.")

    async def _script_or_archive(
        self, request: Request, name: str, version: str, file: str
    ) -> Response:
        """The script, or the archive with all files of the version."""
        async with self.pool.connection() as connection:
            row = await experiments.version_of(connection, name, version)
            stored = await finding_values.of_versions(connection, [row.version_id] if row else [])
        source = experiments.source_of(self.bundles, row) if row else ""
        if row is not None and file == "crate.zip":
            return self._archive(Archive(version=row, values=stored, source=source))
        if not source or file != "script.py":
            raise Refused(404, "No such file of an experiment")
        return public_file(request, source.encode(), "text/plain; charset=utf-8")

    def _archive(self, archive: Archive) -> Response:
        """The archive as it is written. Raises Refused: 503, others are read."""
        if self.archives.locked():
            raise Refused(503, "Other archives are being read", "Try again after a minute.",
                          ARCHIVE_RETRY_SECONDS)  # fmt: skip

        async def pieces() -> AsyncIterator[bytes]:
            async with self.archives:
                async for piece in experiment_archive.stream(self.pool, archive):
                    yield piece

        name = f"{archive.version.name}-{archive.version.version}.zip"
        return StreamingResponse(
            pieces(), media_type="application/zip",
            headers=SAFE_HEADERS | {"content-disposition": f'attachment; filename="{name}"',
                                    "cache-control": "no-store"},
        )  # fmt: skip

    async def session_file(self, request: Request) -> Response:
        """``GET /sessions/N/FILE``: credit or hosts, whole, as CSV, JSON or Parquet."""
        session_id = number_of(request, "number", "No such session")
        name, _, kind = request.path_params["file"].rpartition(".")
        columns, query = SESSION_TABLES.get(name, ({}, ""))
        if not columns:
            raise Refused(404, "No such file of a session", "There are credit and hosts.")
        table = Table(columns=columns, query=query, values={"session": session_id})
        return await self._table(request, table, kind)

    async def _table(self, request: Request, table: Table, kind: str) -> Response:
        """A table as the kind of file that its name asks for."""
        if kind not in DATA_TYPES:
            raise Refused(404, "No such kind of file", f"There are {', '.join(DATA_TYPES)}.")
        async with self.pool.connection() as connection:
            text = await read_csv(connection, table)
        return await self._data(request, text, table.columns, kind)

    async def badge(self, request: Request) -> Response:
        """``GET /users/N/badge.svg``."""
        return await self._award(request, awards.badge)

    async def certificate(self, request: Request) -> Response:
        """``GET /users/N/certificate.svg``."""
        return await self._award(request, awards.certificate)

    async def _award(self, request: Request, draw: awards.Draw) -> Response:
        user_id = number_of(request, "number", "No such volunteer")
        async with self.pool.connection() as connection:
            text = await draw(connection, self.config.project.name, user_id)
        if text is None:
            raise Refused(404, "No such volunteer")
        return public_file(request, text.encode(), SVG)

    async def status_json(self, request: Request) -> Response:
        """``GET /status.json``: the server's status as JSON."""
        async with self.pool.connection() as connection:
            return public_file(request, await status.as_json(connection), JSON)

    async def status_xml(self, request: Request) -> Response:
        """``GET /status.xml``: the server's status with BOINC's names."""
        async with self.pool.connection() as connection:
            return public_file(request, await status.as_xml(connection), XML)

    async def findings_feed(self, request: Request) -> Response:
        """``GET /feeds/findings.atom``."""
        return await self._feed(request, feeds.findings)

    async def sessions_feed(self, request: Request) -> Response:
        """``GET /feeds/sessions.atom``."""
        return await self._feed(request, feeds.sessions)

    async def _feed(self, request: Request, make: feeds.Make) -> Response:
        url = str(request.base_url).rstrip("/")
        async with self.pool.connection() as connection:
            made = await make(connection, self.config.project.name, url)
        return public_file(request, made, ATOM)

    async def chart_of_project(self, request: Request) -> Response:
        """``GET /charts/credit[.narrow].THEME.svg``: the project's credit by day."""
        matched = CHART_FILE.fullmatch(request.path_params["file"])
        if matched is None or not matched["theme"] or matched["owner"] != "credit":
            raise Refused(404, "No such chart")
        async with self.pool.connection() as connection:
            days = await statistics.project_days(connection, CHART_DAYS)
        return _days(request, days, matched)

    async def chart_of(self, request: Request) -> Response:
        """``GET /charts/KIND/OWNER[.narrow].THEME.svg`` or ``OWNER.csv``: credit by day."""
        kind = CHART_KINDS.get(request.path_params["kind"])
        matched = CHART_FILE.fullmatch(request.path_params["file"])
        if kind is None or matched is None:
            raise Refused(404, "No such chart")
        async with self.pool.connection() as connection:
            owner = await _owner(connection, kind, matched["owner"])
            days = await statistics.days_of(connection, kind, owner, CHART_DAYS)
        if matched["theme"]:
            return _days(request, days, matched)
        lines = "".join(f"{d.day},{d.results},{d.credit:.15g}\n" for d in days)
        return public_file(request, f"day,results,credit\n{lines}".encode(), DATA_TYPES["csv"])

    async def asset(self, request: Request) -> Response:
        """``GET /static/NAME``: the stylesheet, the script or the icon."""
        found = assets.find(request.path_params["name"])
        if found is None:
            raise Refused(404, "No such file")
        return public_file(request, found.content, found.media_type, cache=FOR_EVER)


def _finding_file(
    file: re.Match[str], row: VersionRow, finding: Finding, values: FindingValues | None
) -> bytes | None:
    """A finding's picture or its numbers; None for Parquet where DuckDB is not installed."""
    if file["theme"]:
        theme = cast(Theme, file["theme"])
        size = cast(Size, file["size"] or "wide")
        return experiments.picture(finding, values, theme, size).encode()
    if file["data"] == "json":
        return as_json(row, finding, values)
    text = as_csv(values).encode()
    return text if file["data"] == "csv" else to_parquet(text, COLUMN_TYPES)


async def _owner(connection: Connection, kind: str, text: str) -> int:
    """The number of whom a chart is of. Raises Refused."""
    if kind == "experiment":
        found = await stored_experiments.id_of(connection, text)
        if found is not None:
            return found
    elif NUMBER.fullmatch(text):
        public = kind == "team" or await shown_volunteers.is_shown(connection, kind, int(text))
        if public:
            return int(text)
    raise Refused(404, "No such chart")


def _days(request: Request, days: list[DayLine], matched: re.Match[str]) -> Response:
    theme, width = (
        cast(Theme, matched["theme"]),
        experiments.NARROW_WIDTH if matched["narrow"] else experiments.WIDTH,
    )
    drawn = chart.days_chart("Credit a day", days, datetime.now(UTC).date(), theme, width)
    return public_file(request, drawn.encode(), SVG)
