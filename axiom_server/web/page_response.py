"""How pages and their files are answered: what a browser may load, and how long it may keep them.

A public page may be kept by any cache for a few seconds, and is asked for again by its ETag.
A private one is stored nowhere, and is not compressed: its length would tell of its secrets.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import Response

from axiom_server.web.bodies import GZIP_WINDOW

GZIP_BYTES_MIN = 1_000  # shorter answers are not worth compressing
GZIP_LEVEL = 4
PUBLIC_SECONDS = 30  # that a cache may keep a page
FOR_EVER = "public, max-age=31536000, immutable"  # for an address with a hash in it

#: Nothing inline, nothing from elsewhere, in no frame, whatever a volunteer's name holds.
POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
SAFE_HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}


def public_page(request: Request, text: str, *, status: int = 200) -> Response:
    """A page that everybody may see."""
    return public_file(request, text.encode(), "text/html; charset=utf-8", status=status)


def private_page(text: str, *, status: int = 200) -> Response:
    """A page for the one who asked."""
    return Response(
        text, status, SAFE_HEADERS | {"cache-control": "no-store"}, media_type="text/html"
    )


def public_file(
    request: Request, content: bytes, media_type: str, *, status: int = 200,
    cache: str = f"public, max-age={PUBLIC_SECONDS}", headers: Mapping[str, str] | None = None,
) -> Response:  # fmt: skip
    """Anything that everybody may see, with its ETag; 304 without it when the client has it."""
    tag = f'W/"{hashlib.sha256(content).hexdigest()[:24]}"'  # weak: the same packed or not
    shared = {"cache-control": cache, "etag": tag, "vary": "accept-encoding"}
    if status == 200 and has_tag(request, tag):
        return Response(status_code=304, headers=SAFE_HEADERS | shared)
    if status != 200:
        shared = {"cache-control": "no-store"}
    content, packed = _packed(request, content, media_type)
    everything = SAFE_HEADERS | shared | packed | dict(headers or {}) | {"content-type": media_type}
    return Response(content, status, everything)


def has_tag(request: Request, tag: str) -> bool:
    """Whether the client holds the content with this ETag."""
    given = request.headers.get("if-none-match", "")
    return tag.removeprefix("W/") in {t.strip().removeprefix("W/") for t in given.split(",")}


def _packed(request: Request, content: bytes, media_type: str) -> tuple[bytes, dict[str, str]]:
    packable = media_type.startswith("text/") or media_type.partition(";")[0].endswith(
        ("xml", "json", "javascript")
    )
    takes_it = "gzip" in request.headers.get("accept-encoding", "")
    if not packable or not takes_it or len(content) < GZIP_BYTES_MIN:
        return content, {}
    packer = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, GZIP_WINDOW)
    return packer.compress(content) + packer.flush(), {"content-encoding": "gzip"}
