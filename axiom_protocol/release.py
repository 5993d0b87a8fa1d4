"""Releases of axiom-client, for hosts that update themselves: what is signed of them.

They are targets of the delegated TUF role RELEASES. Its keys are named in the signed root, by the
field ROOT_FIELD. An archive's entry has its facts in RELEASE_FIELD of the ``custom`` field.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from axiom_protocol.manifest import Version

RELEASES: Literal["client-releases"] = "client-releases"
ROOT_FIELD = "x-axiom-client-releases"  # keys, keyids and threshold of the role
RELEASE_FIELD = "x-axiom-release"
ARCHIVE_BYTES_MAX = 250_000_000  # with all packages but torch it has 40 MB
_VERSION_PARTS = 3
_PART_DIGITS_MAX = 5


class ReleaseFacts(Struct, frozen=True, kw_only=True):
    """What is signed of an archive besides its bytes. Hosts decide by it whether it fits them.

    system          the system it is for, such as "linux-x86_64", or "any"
    python_from     the oldest Python that runs it, such as "3.11"
    python_below    the first Python that does not; empty: no limit
    journal_format  of the journal that it writes
    """

    version: Version
    system: str = "any"
    python_from: str = "3.11"
    python_below: str = ""
    journal_format: int = 1


def parse_version(text: str) -> tuple[int, ...] | None:
    """The three numbers of a version such as "0.3.0"; None for any other text."""
    parts = text.split(".")
    fit = all(p.isascii() and p.isdigit() and len(p) <= _PART_DIGITS_MAX for p in parts)
    return tuple(map(int, parts)) if fit and len(parts) == _VERSION_PARTS else None
