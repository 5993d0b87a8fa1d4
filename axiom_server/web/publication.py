"""Publish from staff's pages: the command's dry run, then its signature and record."""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from axiom_protocol.manifest import SCRIPT_BYTES_MAX, Manifest
from axiom_server.errors import SigningFailed
from axiom_server.project_folder import ProjectFolder
from axiom_server.publish.publish import (
    PUBLISHING_ROLES,
    DryRunOptions,
    check_sources,
    publish,
)
from axiom_server.review.log_text import dry_run_summary
from axiom_server.store.database import Connection
from axiom_server.trust.keys import KeysError, is_encrypted, key_files, load_keys
from axiom_server.trust.repository import read_bundle
from axiom_server.web.refused import Refused

#: A form writes a byte of a script as three at most.
SCRIPT_FORM_BYTES_MAX = 3 * SCRIPT_BYTES_MAX + 64 * 1024
KEPT = 16  # dry runs that wait for confirmation
BUSY_SECONDS = 60.0  # wait before another attempt while a dry run is under way


@dataclass(frozen=True, kw_only=True)
class Tried:
    """A script that passed its dry run.

    shown  summaries of the dry run by SHA-256; empty if this script is published already
    """

    source: bytes
    manifest: Manifest
    shown: dict[str, dict[str, Any]]

    @property
    def sha256(self) -> str:
        """The SHA-256 of the script, as it will be signed."""
        return hashlib.sha256(self.source).hexdigest()

    @property
    def summary(self) -> str:
        """The dry run in one line; empty where there was none."""
        return dry_run_summary(self.shown[self.sha256]) if self.shown else ""


class Publication:
    """Scripts after their dry run, until they are published. One per serving process."""

    def __init__(self, folder: ProjectFolder) -> None:
        self._folder = folder
        self._tried: OrderedDict[bytes, Tried] = OrderedDict()
        self._trying = asyncio.Lock()

    @property
    def key_here(self) -> bool:
        """Whether the targets key lies on this machine."""
        return bool(key_files(self._folder.keys, "targets"))

    @property
    def encrypted(self) -> bool:
        """Whether a passphrase is needed to sign."""
        return any(
            is_encrypted(p) for r in PUBLISHING_ROLES for p in key_files(self._folder.keys, r)
        )

    async def tried(self, source: bytes) -> Tried:
        """The dry run of a script, made now unless it was made before.

        Raises Refused (503: another is under way), ExperimentMalformed, DryRunFailed.
        """
        if source in self._tried:
            return self._tried[source]
        if self._trying.locked():
            raise Refused(503, "Another dry run is under way", "Try again in a minute.",
                          BUSY_SECONDS)  # fmt: skip
        async with self._trying:
            made = await asyncio.to_thread(self._try, source)
        self._tried[source] = made
        while len(self._tried) > KEPT:
            self._tried.popitem(last=False)
        return made

    def _try(self, source: bytes) -> Tried:
        with tempfile.TemporaryDirectory(prefix="axiom-publish-") as folder:
            path = Path(folder) / "script.py"
            path.write_bytes(source)
            _, shown = check_sources(self._folder, [path], (), DryRunOptions(), lambda _: None)
        return Tried(source=source, manifest=read_bundle(source).manifest, shown=shown)

    async def publish(self, connection: Connection, tried: Tried, passphrase: str) -> str:
        """Sign and store a script that was tried; its name and version.

        Raises ExperimentMalformed, SigningFailed.
        """
        try:
            load_keys(self._folder.keys, passphrase or None, PUBLISHING_ROLES).of("targets")
        except KeysError as error:
            raise SigningFailed(str(error)) from None
        path = Path(f"{tried.manifest.name}.py")
        [(published, _)] = await publish(
            connection, self._folder, [(path, tried.source)], tried.shown, passphrase or None
        )
        self._tried.pop(tried.source, None)
        return published.manifest.ref
