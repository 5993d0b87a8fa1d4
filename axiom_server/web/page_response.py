"""Responses with pages and files: security policy, caching and compression.

Any cache may keep a public page for some seconds and then revalidates it by its ETag. A private
page is not stored, and not compressed, because the compressed length can reveal secrets (BREACH).
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
PUBLIC_CACHE = f"public, max-age={PUBLIC_SECONDS}"
FOR_EVER = "public, max-age=31536000, immutable"  # for an address with a hash in it

#: Pages load nothing inline, nothing from other sites, and cannot be framed. So text by volunteers,
#: such as their names, cannot run code.
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
    """A page for the signed-in visitor only."""
    return Response(
        text, status, SAFE_HEADERS | {"cache-control": "no-store"}, media_type="text/html"
    )


def public_file(
    request: Request, content: bytes, media_type: str, *, status: int = 200,
    cache: str = PUBLIC_CACHE, headers: Mapping[str, str] | None = None, tag: str = "",
) -> Response:  # fmt: skip
    """Anything that everybody may see, with its ETag; 304 without it when the client has it.

    ``tag``: where it is known without the content
    """
    tag = tag or tag_of(content)
    shared = {"cache-control": cache, "etag": tag, "vary": "accept-encoding"}
    if status == 200 and has_tag(request, tag):
        return not_modified(tag, cache)
    if status != 200:
        shared = {"cache-control": "no-store"}
    content, packed = _packed(request, content, media_type)
    everything = SAFE_HEADERS | shared | packed | dict(headers or {}) | {"content-type": media_type}
    return Response(content, status, everything)


def tag_of(content: bytes) -> str:
    """The ETag of a content, or of what it is made of; weak: the same packed or not."""
    return f'W/"{hashlib.sha256(content).hexdigest()[:24]}"'


def not_modified(tag: str, cache: str = PUBLIC_CACHE) -> Response:
    """What is answered to a client that has the content of this ETag."""
    shared = {"cache-control": cache, "etag": tag, "vary": "accept-encoding"}
    return Response(status_code=304, headers=SAFE_HEADERS | shared)


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
