"""The short-lived process that downloads and verifies bundles.

It is separate because python-tuf blocks, and because it would take 15 MiB of the agent's memory for
good. It reads lines of JSON from standard input, first the FetchSettings and then BundleRequests,
and writes a BundleReply for each to standard output. It ends when its input is closed.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec
from msgspec import Struct

from axiom_protocol.manifest import Manifest

if TYPE_CHECKING:  # the agent imports the messages below without python-tuf
    from axiom_client.project.bundles import BundleStore


class FetchSettings(Struct, frozen=True, kw_only=True):
    """Where bundles are stored and where they are downloaded from."""

    folder: str
    url: str
    root_fingerprint: str = ""
    proxy: str = ""
    ca_bundle: str = ""


class BundleRequest(Struct, frozen=True, kw_only=True):
    """Asks for one bundle."""

    experiment: str
    version: str
    sha256: str
    accepted: bool = False


class BundleReply(Struct, frozen=True, kw_only=True):
    """The reply to one request. ``path`` and ``manifest`` are set if the outcome is "fetched"."""

    sha256: str
    outcome: Literal["fetched", "refused", "failed"]
    path: str = ""
    manifest: Manifest | None = None
    problem: str = ""
    received_bytes: int = 0  # since the last reply


def main() -> None:
    """Answer requests until the input ends."""
    from axiom_client.project.api import trust
    from axiom_client.project.bundles import BundleStore
    from axiom_client.project.fetching import HttpFetcher
    from axiom_client.project.slim_httpx import httpx
    from axiom_client.system.child_lifetime import end_with_parent

    end_with_parent()
    first = sys.stdin.buffer.readline()
    if not _is_whole(first):
        return  # the agent was killed while it wrote the settings
    settings = msgspec.json.decode(first, type=FetchSettings)
    with httpx.Client(
        verify=trust(settings.url, settings.ca_bundle), proxy=settings.proxy or None
    ) as client:
        fetcher = HttpFetcher(client)
        store = BundleStore(
            Path(settings.folder), settings.url, client,
            root_fingerprint=settings.root_fingerprint, fetcher=fetcher,
        )  # fmt: skip
        before = 0
        for line in sys.stdin.buffer:
            if not _is_whole(line):
                return
            reply = _answer(store, msgspec.json.decode(line, type=BundleRequest))
            received = fetcher.received_bytes - before
            before = fetcher.received_bytes
            reply = msgspec.structs.replace(reply, received_bytes=received)
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
        outcome: Literal["refused", "failed"] = "failed" if refused.temporary else "refused"
        return BundleReply(sha256=request.sha256, outcome=outcome, problem=str(refused))
    except OSError as error:
        return BundleReply(sha256=request.sha256, outcome="failed", problem=str(error))
    return BundleReply(sha256=request.sha256, outcome="fetched", path=str(path), manifest=manifest)


if __name__ == "__main__":
    main()
