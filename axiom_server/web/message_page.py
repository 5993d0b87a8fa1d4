"""Answers of the server that are shown to a browser as a page: refusals and errors."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import Response

from axiom_protocol.messages import Problem
from axiom_server.pages.environment import render
from axiom_server.web.page_response import public_file


def wants_page(request: Request) -> bool:
    """Whether the client is a browser, which gets a page instead of JSON."""
    return "text/html" in request.headers.get("accept", "")


def message_page(
    request: Request, project: str, problem: Problem, headers: Mapping[str, str] | None = None
) -> Response:
    """A refusal as a page."""
    text = render(
        "message.html", project=project, path="", title=problem.title, detail=problem.detail,
        back=_way_back(request.url.path, problem.status),
    )  # fmt: skip
    return public_file(
        request, text.encode(), "text/html; charset=utf-8", status=problem.status, headers=headers
    )


#: Beginning of a path -> where to go on after a refusal, with the link's text.
WAYS_BACK = {
    "/account/machines": ("/account/machines", "Back to your machines"),
    "/account/sign-in": ("/account/sign-in", "Try again"),
    "/account/link/": ("/account/sign-in", "Sign in by key"),
    "/account": ("/account", "Back to your account"),
    "/staff/sign-in": ("/staff/sign-in", "Try again"),
    "/staff": ("/staff", "Back to the staff's page"),
}


def _way_back(path: str, status: int) -> tuple[str, str] | None:
    """Where a refused visitor of a private page goes on; None on public pages."""
    begin = next((begin for begin in WAYS_BACK if path.startswith(begin)), None)
    if begin is None:
        return None
    if status == 401:
        return f"/{path.split('/')[1]}/sign-in", "Sign in"
    return WAYS_BACK[begin]
