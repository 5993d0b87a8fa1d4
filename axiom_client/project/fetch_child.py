"""The short-lived process that fetches and verifies bundles, so that the agent itself stays small.

python-tuf and its cryptography block, and would cost the agent some 15 MiB for good. Lines of
JSON: on its standard input first the FetchSettings, then each BundleRequest; on its standard
output a BundleReply for each. It ends when its input does.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec
from msgspec import Struct

from axiom_protocol.manifest import Manifest

if TYPE_CHECKING:  # the agent takes the messages below without python-tuf
    import httpx

    from axiom_client.project.bundles import BundleStore

#: Refusals that time may cure: the server is away, or offers nothing valid for now.
PASSING = frozenset(
    {"unreachable", "slow retrieval", "expired", "freeze", "mix-and-match", "malformed metadata"}
)


class FetchSettings(Struct, frozen=True, kw_only=True):
    """Where bundles are kept and where they come from."""

    folder: str
    url: str
    proxy: str = ""
    ca_bundle: str = ""


class BundleRequest(Struct, frozen=True, kw_only=True):
    """One bundle wanted."""

    experiment: str
    version: str
    sha256: str
    accepted: bool = False


class BundleReply(Struct, frozen=True, kw_only=True):
    """What became of it. ``path`` and ``manifest`` are set when it is fetched."""

    sha256: str
    outcome: Literal["fetched", "refused", "failed"]
    path: str = ""
    manifest: Manifest | None = None
    problem: str = ""
    received_bytes: int = 0  # since the last answer


class Received:
    """Counts what answers announce to hold."""

    def __init__(self) -> None:
        self._bytes = 0

    def count(self, response: httpx.Response) -> None:
        """One answer's head."""
        length = response.headers.get("content-length", "")
        self._bytes += int(length) if length.isdigit() else 0

    def take(self) -> int:
        """All since the last call."""
        taken, self._bytes = self._bytes, 0
        return taken


def main() -> None:
    """Answer requests until the input ends."""
    from axiom_client.child_lifetime import end_with_parent
    from axiom_client.project.api import trust
    from axiom_client.project.bundles import BundleStore
    from axiom_client.project.slim_httpx import httpx

    end_with_parent()
    first = sys.stdin.buffer.readline()
    if not _is_whole(first):
        return  # the agent was killed before it had said what it wants
    settings = msgspec.json.decode(first, type=FetchSettings)
    received = Received()
    with httpx.Client(
        verify=trust(settings.url, settings.ca_bundle),
        proxy=settings.proxy or None,
        event_hooks={"response": [received.count]},
    ) as client:
        store = BundleStore(Path(settings.folder), settings.url, client)
        for line in sys.stdin.buffer:
            if not _is_whole(line):
                return
            reply = _answer(store, msgspec.json.decode(line, type=BundleRequest))
            reply = msgspec.structs.replace(reply, received_bytes=received.take())
            try:
                os.write(1, msgspec.json.encode(reply) + b"\n")
            except BrokenPipeError:
                return  # the agent was killed meanwhile


def _is_whole(line: bytes) -> bool:
    return line.endswith(b"\n")


def _answer(store: BundleStore, request: BundleRequest) -> BundleReply:
    from axiom_client.project.refusal import BundleRefused

    try:
        path = store.fetch(
            request.experiment, request.version, request.sha256, accepted=request.accepted
        )
        manifest = store.manifest(
            request.experiment, request.version, request.sha256, accepted=request.accepted
        )
    except BundleRefused as refused:
        outcome: Literal["refused", "failed"] = "failed" if refused.attack in PASSING else "refused"
        return BundleReply(sha256=request.sha256, outcome=outcome, problem=str(refused))
    except OSError as error:
        return BundleReply(sha256=request.sha256, outcome="failed", problem=str(error))
    return BundleReply(sha256=request.sha256, outcome="fetched", path=str(path), manifest=manifest)


if __name__ == "__main__":
    main()
