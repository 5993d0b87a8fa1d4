"""The Jinja environment: template folder, escaping, and filters that format values."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from axiom_server.decide.credit import decayed
from axiom_server.pages import assets
from axiom_server.review.log import number

#: Path -> its name in the header of every page.
NAVIGATION = {
    "/experiments": "Experiments",
    "/studies": "Studies",
    "/leaders": "Volunteers",
    "/teams": "Teams",
    "/sessions": "Sessions",
    "/status": "Status",
    "/account/sign-in": "Your account",
}


def render(template: str, *, project: str, path: str, **values: Any) -> str:
    """Fill a template. ``path`` is the page's path, which the navigation marks as current."""
    return environment.get_template(template).render(project=project, path=path, **values)


def whole(value: float) -> str:
    """A number with a thousands separator; whole numbers are written without decimals."""
    return f"{number(value):,}"


def short(value: float | None) -> str:
    """A number to three significant digits; a dash where there is none."""
    return "\N{EN DASH}" if value is None else f"{value:.3g}"


def moment(value: datetime | str | None) -> str:
    """A point in time, in UTC. A text is one of ISO 8601, as JSON holds it."""
    if value is None:
        return "never"
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    offset = value.utcoffset() or timedelta(0)
    return f"{(value - offset):%Y-%m-%d %H:%M} UTC"


def counted(count: float, noun: str) -> str:
    """A count with its noun, "1 host" or "2 hosts"."""
    return f"{whole(count)} {noun}{'' if count == 1 else 's'}"


def listed(value: object) -> str:
    """A value of the audit log: the items of a list without brackets and quotes."""
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def breakable(name: str) -> Markup:
    """A name of an experiment, which may be broken after an underscore."""
    return Markup("_<wbr>").join(name.split("_"))


def average_now(average: float, since: datetime | None) -> float:
    """A recent average credit a day, as of now."""
    if since is None:
        return 0.0
    return decayed(average, (datetime.now(UTC) - since).total_seconds())


def path_part(value: object) -> str:
    """A text, escaped as one segment of a URL path."""
    return quote(str(value), safe="")


environment = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
environment.filters |= {
    "number": whole, "short": short, "moment": moment, "counted": counted, "path_part": path_part,
    "listed": listed, "breakable": breakable,
}  # fmt: skip
environment.globals |= {"asset": assets.address, "navigation": NAVIGATION}
