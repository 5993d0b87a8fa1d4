"""The files that every page loads: one stylesheet, one script, one icon.

An address contains a hash of the content, so browsers may cache a file for ever.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parent / "static"
HASH_LENGTH = 12  # hex digits; enough to distinguish versions
MEDIA_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


class Asset(NamedTuple):
    """One file with its media type."""

    content: bytes
    media_type: str


def address(name: str) -> str:
    """The path of the file ``name`` of the folder, with its hash."""
    return "/static/" + _hashed(FOLDER / name)


def find(hashed: str) -> Asset | None:
    """The file with this hashed name; None when no file has this name and content."""
    return _all().get(hashed)


@cache
def _all() -> dict[str, Asset]:
    return {
        _hashed(path): Asset(path.read_bytes(), MEDIA_TYPES[path.suffix])
        for path in FOLDER.iterdir()
        if path.suffix in MEDIA_TYPES
    }


@cache
def _hashed(path: Path) -> str:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:HASH_LENGTH]
    return f"{path.stem}.{digest}{path.suffix}"
