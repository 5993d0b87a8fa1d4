"""The agent's own metadata client behind the command line of the TUF conformance suite.

The suite (https://github.com/theupdateframework/tuf-conformance) is not part of this project.
``make tuf-conformance SUITE=its-folder`` runs its 79 metadata tests on this file. Left out are
those of downloads (bundles are found by name, version and hash, never by a target path that a
caller chooses), of graphs of delegations (projects publish without), and of repositories that
other programs made.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

import httpx
from tuf.api.exceptions import DownloadError, RepositoryError
from tuf.ngclient import Updater

from axiom_client.project.fetching import LIMITS, HttpFetcher
from axiom_client.project.refusal import BundleRefused
from axiom_client.project.signed import SignedTargets

UNSIGNED = "conformance@0.0.1"  # no repository of the suite signs it
REFRESHED = f"the project never signed {UNSIGNED}"  # only current metadata can tell


def main() -> int:
    """Run one command; 0 when it succeeded, 1 when the repository is refused."""
    given = _arguments()
    folder = Path(given.metadata_dir)
    pinned = folder.parent / "pinned.root.json"
    if given.command == "init":
        shutil.copyfile(given.trusted_root, folder / "root.json")
        shutil.copyfile(given.trusted_root, pinned)
        return 0
    if given.command == "download":
        return _look_up(folder, given.metadata_url, pinned.read_bytes(), given.target_name)
    return _refresh(folder, given.metadata_url, pinned.read_bytes())


def _refresh(folder: Path, url: str, root: bytes) -> int:
    with httpx.Client() as client:
        signed = SignedTargets(folder, f"{url.rstrip('/')}/", HttpFetcher(client), 0.0)
        try:
            signed.find(root, UNSIGNED, accepted=False)
        except BundleRefused as refused:
            print(refused, file=sys.stderr)
            return int(refused.message != REFRESHED)
    return 1


def _look_up(folder: Path, url: str, root: bytes, names: list[str]) -> int:
    """Look targets up as the parts of the agent's client do; it downloads none by a path."""
    with httpx.Client() as client:
        updater = Updater(
            str(folder), f"{url.rstrip('/')}/", fetcher=HttpFetcher(client), config=LIMITS,
            bootstrap=root,
        )  # fmt: skip
        try:
            found = [updater.get_targetinfo(name) for name in names]
        except (RepositoryError, DownloadError) as error:
            sys.exit(str(error))
    sys.exit(f"the agent downloads no targets by path; found {found}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("metadata-url", "metadata-dir", "target-dir", "target-base-url"):
        parser.add_argument(f"--{name}", default="")
    parser.add_argument("--target-name", action="append")
    parser.add_argument("-v", "--verbose", action="count")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("init").add_argument("trusted_root")
    commands.add_parser("refresh")
    commands.add_parser("download")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
