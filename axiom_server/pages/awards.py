"""A badge and a certificate of contribution, as SVG."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from html import escape

from axiom_server.pages.environment import counted, whole
from axiom_server.store import volunteers
from axiom_server.store.database import Connection

CHARACTER_WIDTH = 8  # pixels of a badge, in most fonts less
NAME_SHOWN = 40  # characters of a name that fit on a line

#: Draws an image for (connection, project name, volunteer); None when there is no such volunteer.
Draw = Callable[[Connection, str, int], Awaitable[str | None]]


async def badge(connection: Connection, project: str, user_id: int) -> str | None:
    """A small badge with the volunteer's credit."""
    found = await volunteers.user(connection, user_id)
    if found is None:
        return None
    return _badge(f"{found.name}: ", project[:12], f"{whole(found.credit_total)} credit")


def _badge(about: str, left: str, right: str) -> str:
    """Two words side by side, each with as much room as it needs."""
    begin = 30 + CHARACTER_WIDTH * len(left)
    width = begin + 30 + CHARACTER_WIDTH * len(right)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} 28" width="{width}" '
        'height="28" font-family="system-ui, sans-serif" font-size="13" role="img">'
        f"<title>{escape(about + right)}</title>"
        f'<rect width="{width}" height="28" rx="5" fill="#24292f"/>'
        f'<path d="M{begin} 0H{width - 5}a5 5 0 0 1 5 5v18a5 5 0 0 1 -5 5H{begin}z" '
        'fill="#1a56c4"/><g fill="#fff" text-anchor="middle">'
        f'<text x="{begin / 2}" y="19">{escape(left)}</text>'
        f'<text x="{(begin + width) / 2}" y="19">{escape(right)}</text></g></svg>'
    )


async def certificate(connection: Connection, project: str, user_id: int) -> str | None:
    """A printable page: what a volunteer contributed, and to which experiments."""
    found = await volunteers.user(connection, user_id)
    if found is None:
        return None
    worked_on = await volunteers.experiments_of(connection, user_id)
    results = sum(w[1] for w in worked_on)
    lines = [
        (150, 34, "Certificate of contribution"),
        (215, 30, found.name[:NAME_SHOWN]),
        (265, 18, f"has contributed {counted(results, 'result')} and {whole(found.credit_total)} "
                  f"credit to {project[:NAME_SHOWN]}"),
        (300, 18, f"by volunteering computers for {counted(len(worked_on), 'experiment')}"),
        (330, 18, "on how neural networks train."),
        (420, 14, f"{datetime.now(UTC):%d %B %Y}"),
    ]  # fmt: skip
    texts = "".join(
        f'<text x="400" y="{y}" font-size="{size}" text-anchor="middle">{escape(text)}</text>'
        for y, size, text in lines
    )
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 800 500" width="800" height="500" '
        'font-family="Georgia, serif" fill="#1b1b1b" role="img">'
        f"<title>Certificate of {escape(found.name)}</title>"
        '<rect width="800" height="500" fill="#fffdf6"/>'
        '<rect x="20" y="20" width="760" height="460" fill="none" stroke="#1a56c4" '
        f'stroke-width="3"/>{texts}</svg>'
    )
