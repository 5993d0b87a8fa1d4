"""Forms of signed-in visitors: bounded, and refused when another site sent them."""

from __future__ import annotations

import hashlib
import hmac
from urllib.parse import parse_qs, urlsplit

from starlette.requests import Request

from axiom_server.web.bodies import BodyBudget, body
from axiom_server.web.refused import Refused

FORM_BYTES_MAX = 128 * 1024  # enough for two thousand selected hosts
FIELDS_MAX = 4_000


class Form:
    """The fields of a form."""

    def __init__(self, fields: dict[str, list[str]]) -> None:
        self._fields = fields

    def text(self, name: str, limit: int = 200) -> str:
        """One field without spaces around it; empty when it was not sent."""
        return self._fields.get(name, [""])[0].strip()[:limit]

    def script(self, name: str) -> bytes:
        """A field that holds a file's text, with its line ends as they were."""
        return self._fields.get(name, [""])[0].replace("\r\n", "\n").encode()

    def numbers(self, name: str) -> list[int]:
        """All whole numbers of a field that may be sent more than once."""
        values = self._fields.get(name, [])
        return [int(v) for v in values if v.isascii() and v.isdigit() and len(v) < 19]


async def read_form(request: Request, budget: BodyBudget, bytes_max: int = FORM_BYTES_MAX) -> Form:
    """The form of a request. Raises Refused: 403 from another site, 400 not a form."""
    _refuse_other_sites(request)
    async with body(request, budget, bytes_max) as raw:
        try:
            fields = parse_qs(raw.decode(), keep_blank_values=True, max_num_fields=FIELDS_MAX)
        except (UnicodeDecodeError, ValueError):
            raise Refused(400, "This is not a form", "Send it from the page again.") from None
    return Form(fields)


def _refuse_other_sites(request: Request) -> None:
    origin = request.headers.get("origin", "")
    if origin and _netloc(origin) != request.headers.get("host", ""):
        raise Refused(403, "Another site sent this form", "Open the page here and send it again.")


def _netloc(origin: str) -> str | None:
    """Host and port of an origin; None when it is no address."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return None


def form_token(session: str) -> str:
    """The token in a page's forms, which prevents other sites from sending a form (CSRF)."""
    return hmac.new(session.encode(), b"form", hashlib.sha256).hexdigest()


def check_token(form: Form, session: str) -> None:
    """Raises Refused: 403, the form is not of a page of this session."""
    if not hmac.compare_digest(form.text("form_token").encode(), form_token(session).encode()):
        raise Refused(403, "This form is out of date", "Load the page again, then send it.")
