"""The short-lived process that looks for a release of the agent, and stages it on the disk.

It reads one line of JSON, the CheckSettings, from standard input and writes a CheckReply. It is
separate because it takes memory and time that the agent should not: python-tuf, a download, and
hashing. A staged release has been imported once, in a process of its own.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import msgspec
from msgspec import Struct

from axiom_client.decide.update import (
    Installation,
    Release,
    UpdateRecord,
    choose,
    stage,
    unneeded,
)
from axiom_client.releases.folder import ReleaseFolder
from axiom_client.system.child_environment import child_environment

ARCHIVE_SECONDS_MAX = 3600.0  # 40 MB at 11 kB/s
IMPORT_SECONDS_MAX = 600.0  # on a very busy computer, at a low priority
NICENESS = 10  # other programs come first, and tasks, at the lowest priority of all, last
#: What a staged release must be able to import before it is taken up: nearly all of the agent.
IMPORTED = "axiom_client.cli.run, axiom_client.agent.loop, axiom_client.project.bundles"


class CheckSettings(Struct, frozen=True, kw_only=True):
    """Where releases are looked for, and for which agent."""

    folder: str
    pinned_root: str
    url: str
    running: str
    journal_format: int
    proxy: str = ""
    ca_bundle: str = ""


class CheckReply(Struct, frozen=True, kw_only=True):
    """``staged``: the version that is ready; empty for none. ``problem``: why not a newer one."""

    staged: str = ""
    problem: str = ""


def main() -> None:
    """Look for a release, stage it, and say so."""
    from axiom_client.system.child_lifetime import end_with_parent

    end_with_parent()
    settings = msgspec.json.decode(sys.stdin.buffer.readline(), type=CheckSettings)
    os.umask(0o077)
    if sys.platform != "win32":
        os.nice(NICENESS)
    sys.stdout.buffer.write(msgspec.json.encode(check(settings)) + b"\n")


def check(settings: CheckSettings) -> CheckReply:
    """Look for a release and stage it; the record then has it, or says why there is none."""
    from axiom_client.releases.unpack import StageProblem

    folder = ReleaseFolder(Path(settings.folder))
    folder.make()
    try:
        return _check(folder, settings)
    except StageProblem as problem:
        return _failed(folder, str(problem))
    except OSError as error:
        return _failed(folder, f"{error.filename or folder.folder}: {error.strerror}")


def _failed(folder: ReleaseFolder, problem: str) -> CheckReply:
    folder.change_record(
        lambda record: msgspec.structs.replace(record, problem=problem, checked_wall=time.time())
    )
    return CheckReply(problem=problem)


def _check(folder: ReleaseFolder, settings: CheckSettings) -> CheckReply:
    from axiom_client.project.api import trust
    from axiom_client.project.fetching import HttpFetcher
    from axiom_client.project.refusal import BundleRefused
    from axiom_client.project.releases import SignedReleases
    from axiom_client.project.slim_httpx import httpx
    from axiom_client.releases.unpack import StageProblem, check_space

    with httpx.Client(
        verify=trust(settings.url, settings.ca_bundle), proxy=settings.proxy or None
    ) as client:
        fetcher = HttpFetcher(client, file_seconds_max=ARCHIVE_SECONDS_MAX)
        signed = SignedReleases(folder.metadata, settings.url, fetcher)
        try:
            found = signed.find(Path(settings.pinned_root).read_bytes())
            record = _remember(folder, list(found))
            choice = choose(found, settings.running, _here(settings), record, time.time())
            if choice.release is None:
                return CheckReply(
                    staged=_still_staged(folder, record, settings.running),
                    problem=_noted(folder, choice.problem),
                )
            release = choice.release
            check_space(folder.folder, release.length)
            signed.download(found[release], folder.download)
        except BundleRefused as refused:
            raise StageProblem(str(refused)) from None
    return CheckReply(staged=_stage(folder, release, settings), problem=choice.problem)


def _remember(folder: ReleaseFolder, releases: list[Release]) -> UpdateRecord:
    """Note which versions staff name now."""
    named = sorted({release.version for release in releases})
    return folder.change_record(
        lambda record: msgspec.structs.replace(record, named=named, checked_wall=time.time())
    )


def _noted(folder: ReleaseFolder, problem: str) -> str:
    folder.change_record(lambda record: msgspec.structs.replace(record, problem=problem))
    return problem


def _still_staged(folder: ReleaseFolder, record: UpdateRecord, running: str) -> str:
    """What an earlier check staged, unless staff have withdrawn it since."""
    if record.staged in ("", running) or record.staged in record.named:
        return "" if record.staged == running else record.staged
    withdrawn = record.staged
    folder.change_record(
        lambda record: (
            msgspec.structs.replace(record, staged="", starts=0)
            if record.staged == withdrawn
            else record
        )
    )
    return ""


def _here(settings: CheckSettings) -> Installation:
    import platform

    major, minor = sys.version_info[:2]
    return Installation(
        system=f"{sys.platform}-{platform.machine().lower()}",
        python=f"{major}.{minor}",
        journal_format=settings.journal_format,
    )


def _stage(folder: ReleaseFolder, release: Release, settings: CheckSettings) -> str:
    """Unpack a verified archive, try to import it, and enter it in the record."""
    from axiom_client.releases.unpack import StageProblem, unpack

    try:
        unpack(folder, folder.download, release)
    finally:
        folder.download.unlink(missing_ok=True)
    if why := _import_problem(folder.libraries(release.version), release.version):
        folder.delete([release.version])
        raise StageProblem(f"{release.version} is left out: {why}")
    record = folder.change_record(lambda record: stage(record, release.version))
    kept = {settings.running}
    folder.delete([v for v in unneeded(record, folder.present()) if v not in kept])
    return release.version


def _import_problem(library: Path, version: str) -> str:
    """Why a release cannot be imported here; empty if it can, and is the version it says."""
    import subprocess

    code = f"import axiom_protocol, {IMPORTED}; print(axiom_protocol.__version__)"
    environment = child_environment()
    others = environment.get("PYTHONPATH")
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(library), others]))
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", code], env=environment, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, errors="replace", check=False,
            timeout=IMPORT_SECONDS_MAX,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return "it could not be imported in time"
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return f"it cannot be imported here ({last}); if a package is missing, install it by hand"
    if done.stdout.strip() != version:
        return f"its code says that it is {done.stdout.strip()!a}"
    return ""


if __name__ == "__main__":
    main()
