"""This host's identity in its project. Only its owner can read the file. Tokens are not logged."""

from __future__ import annotations

from pathlib import Path

import msgspec
from msgspec import Struct

from axiom_client.errors import JournalBroken
from axiom_protocol.durable_file import PRIVATE, replace_file


class Identity(Struct, frozen=True, kw_only=True):
    """The data that joining a project returned. ``token`` is a secret."""

    url: str
    project: str
    host_id: int
    token: str
    user: str
    account_key: str = ""
    root_fingerprint: str = ""
    host_name: str = ""  # as given when attaching; empty: the computer's name

    def __repr__(self) -> str:
        """Without the secrets, so that no log or error message contains them."""
        return f"Identity(host {self.host_id} of {self.project} at {self.url})"


def read_identity(path: Path) -> Identity | None:
    """The identity; None if this host is not attached. Raises JournalBroken if it is damaged."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Identity)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        raise JournalBroken(
            f"{path} is damaged ({error}); delete it and attach again: axiom-client attach URL"
        ) from None


def write_identity(path: Path, identity: Identity) -> None:
    """Replace the file atomically; only its owner can ever read it."""
    replace_file(path, msgspec.json.format(msgspec.json.encode(identity)), PRIVATE)
