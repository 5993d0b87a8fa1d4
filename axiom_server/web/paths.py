"""Numbers in a request's address: which thing is meant, and which page of a listing."""

from __future__ import annotations

import re

from starlette.requests import Request

from axiom_server.pages import volunteers
from axiom_server.web.refused import Refused

NUMBER = re.compile(r"[1-9][0-9]{0,17}", re.ASCII)  # of PostgreSQL's bigint


def number_of(request: Request, name: str, title: str) -> int:
    """A number in the path. Raises Refused: 404 with this title."""
    text = request.path_params[name]
    if not NUMBER.fullmatch(text):
        raise Refused(404, title)
    return int(text)


def text_of(request: Request, name: str, title: str) -> str:
    """A text in the path, as a database can hold it. Raises Refused: 404 with this title."""
    text: str = request.path_params[name]
    if "\0" in text:
        raise Refused(404, title)
    return text


def page_of(request: Request, last: int = volunteers.PAGES_MAX) -> int:
    """Which page of a listing is asked for. Raises Refused: 404."""
    text = request.query_params.get("page", "1")
    if not NUMBER.fullmatch(text) or int(text) > last:
        raise Refused(404, "No such page", f"Pages go from 1 to {last}.")
    return int(text)
