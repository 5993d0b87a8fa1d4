"""Checks a name that somebody gives an account or a team on the wire or on a page."""

from __future__ import annotations

from axiom_protocol.text import one_line
from axiom_server.decide.names import NAME_CHARACTERS_MAX, refusal
from axiom_server.web.refused import Refused


def checked_name(text: str) -> str:
    """A name for an account or a team, cut to its length. Raises Refused: 400, it is unusable."""
    name = one_line(text)[:NAME_CHARACTERS_MAX]
    if why := refusal(name):
        raise Refused(400, "This name cannot be used", f"{why}: choose another name.")
    return name
