"""``GET /stats/NAME``: BOINC's statistics files, made once a day by `axiom-server refresh-pages`.

Only a project that has none yet makes them when they are asked for.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from axiom_server.store.database import Pool
from axiom_server.transfer.export_statistics import NAMES, export_statistics
from axiom_server.web.page_response import SAFE_HEADERS
from axiom_server.web.refused import Refused

CACHE = {"cache-control": "public, max-age=3600"}


@dataclass(frozen=True, kw_only=True)
class StatisticsFiles:
    """Serves the files of ``folder``. One per serving process."""

    folder: Path
    pool: Pool
    _making: asyncio.Lock = field(default_factory=asyncio.Lock)

    def routes(self) -> list[Route]:
        """The route of the files."""
        return [Route("/stats/{name}", self.file)]

    async def file(self, request: Request) -> Response:
        """``GET /stats/NAME``: one file; older files are written again first."""
        name = request.path_params["name"]
        if name not in NAMES:
            raise Refused(404, "No such statistics file", f"There are {', '.join(NAMES)}.")
        async with self._making:
            if not (self.folder / name).is_file():
                async with self.pool.connection() as connection:
                    await export_statistics(connection, self.folder)
        kind = "text/xml" if name.endswith(".xml") else "application/gzip"
        return FileResponse(self.folder / name, headers=SAFE_HEADERS | CACHE, media_type=kind)
