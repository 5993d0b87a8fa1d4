"""An AppContainer for each task: its identity, and the folders that it may use.

Windows gives an AppContainer no file of the user's, so the folders are granted by icacls: the
task's own to its container alone, those of Python and its libraries to a capability that all tasks
have. Folders below Program Files may be read by all AppContainers already. Source: Microsoft's
documentation of icacls, "AppContainer isolation", CreateAppContainerProfile.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Sequence
from functools import cache

from msgspec import Struct

from axiom_client.sandbox import windows_calls as calls
from axiom_client.sandbox.errors import SandboxError
from axiom_client.sandbox.windows import ContainerAttributes
from axiom_client.system.child_environment import find_program
from axiom_client.system.libraries import windows_library

_ICACLS_SECONDS = 300.0  # a folder with 30,000 files takes some seconds
# Rights, inherited by what is below. A task may not change the permissions (WDAC) of its own folder
# and the owner (WO).
_READ, _OWN = "(OI)(CI)RX", "(OI)(CI)(RD,REA,RA,RC,X,S,WD,AD,WEA,WA,DE,DC)"

Icacls = Callable[[Sequence[str]], tuple[int, str]]  # exit code and output; replaced in tests


class Container(Struct, frozen=True):
    """The SIDs of one task's container and of its capabilities, as pointers."""

    sid: int
    capabilities: tuple[int, ...]

    def close(self) -> None:
        """Free the container's SID."""
        calls.free_sid(self.sid)


def missing() -> str:
    """Why AppContainers cannot be used here; empty if they can."""
    needed = {
        "userenv": "DeriveAppContainerSidFromAppContainerName",
        "kernelbase": "DeriveCapabilitySidsFromName",
    }
    for library, name in needed.items():
        try:
            known = hasattr(windows_library(library), name)
        except OSError as error:
            return f"AppContainers cannot be used: {error}"
        if not known:
            return f"this Windows has no AppContainers: {library}.dll lacks {name}"
    return ""


def run_icacls(arguments: Sequence[str]) -> tuple[int, str]:
    """Run Windows' icacls. Raises SandboxError when it is missing or hangs."""
    program = find_program("icacls")
    if program is None:
        raise SandboxError("icacls is not in PATH; it belongs to Windows")
    try:
        done = subprocess.run(
            [program, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True,
            errors="replace", timeout=_ICACLS_SECONDS, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SandboxError(f"icacls failed: {error}") from None
    return done.returncode, done.stdout + done.stderr


def prepare(attributes: ContainerAttributes, icacls: Icacls = run_icacls) -> Container:
    """The container of a task, with its folders granted. Raises SandboxError, OSError."""
    sid = calls.container_sid(attributes.name)
    try:
        granted = tuple(_capability(name) for name in attributes.capabilities)
        for capability in granted:
            allow_reading(attributes.read_only, calls.sid_text(capability), icacls)
        container = Container(sid, granted)
        open_folders(container, attributes.read_write, icacls)
    except BaseException:
        calls.free_sid(sid)
        raise
    return container


def open_folders(container: Container, folders: Sequence[str], icacls: Icacls = run_icacls) -> None:
    """Let this container alone use these folders. Raises SandboxError, OSError."""
    for folder in folders:
        _grant(folder, calls.sid_text(container.sid), _OWN, icacls)


@cache
def _capability(name: str) -> int:
    return calls.capability_sid(name)


_readable: set[tuple[str, str]] = set()  # (folder, SID) that this process has granted or found


def allow_reading(folders: Sequence[str], sid: str, icacls: Icacls = run_icacls) -> None:
    """Let a capability read these folders, once; nothing is changed where it may read them already.

    Raises SandboxError where the permission is missing to do so.
    """
    for folder in folders:
        if (folder, sid) in _readable or _is_public(folder):
            continue
        code, output = icacls([folder])
        if code != 0:
            raise SandboxError(f"icacls cannot read the permissions of {folder}: {_last(output)}")
        if sid not in output:
            _grant(folder, sid, _READ, icacls)
        _readable.add((folder, sid))


def _is_public(folder: str) -> bool:
    """Whether Windows itself lets every AppContainer read this folder."""
    roots = (os.environ.get(name, "") for name in ("ProgramFiles", "SystemRoot"))
    below = os.path.normcase(folder) + os.sep
    return any(root and below.startswith(os.path.normcase(root) + os.sep) for root in roots)


def _grant(folder: str, sid: str, rights: str, icacls: Icacls) -> None:
    code, output = icacls([folder, "/grant", f"*{sid}:{rights}", "/q"])
    if code != 0:
        raise SandboxError(
            f"{folder} cannot be opened to tasks ({_last(output)}); run this command once as the "
            f"owner of that folder, or as administrator: "
            f'icacls "{folder}" /grant "*{sid}:{rights}"'
        )


def _last(output: str) -> str:
    lines = output.strip().splitlines()
    return lines[-1] if lines else "it printed nothing"
