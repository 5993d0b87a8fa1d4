"""Everything that can end a command, as one tree.

AxiomError
├── ConfigProblem            the configuration cannot be used
│   ├── UnknownKey
│   └── BadValue
├── NotAttached              this host belongs to no project yet
├── AlreadyAttached
├── AlreadyRunning           another agent has this folder
├── NotRunning               the command needs a running agent
├── ControlRefused           the agent's socket does not let this user in
├── ProjectProblem           something is wrong with the project's server, or the way to it
│   ├── BadAddress
│   ├── ServerNotThere
│   ├── NotAnAxiomServer
│   ├── HostRefused
│   ├── RequestRefused
│   ├── VersionMismatch
│   └── BundlesNotTrusted
├── DiskFull
├── JournalBroken
├── ServiceProblem           the operating system's service could not be installed or reached
├── SandboxMissing           this host cannot confine a task, so it runs none
├── TrialFailed              an experiment that was tried did not succeed
└── NoSuchTask

Each class owns its exit code; each message says what happened and what to do next, in one line.
``docs/exit-codes.md`` is checked against this file by a test.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

from typing import ClassVar


class AxiomError(Exception):
    """Ends a command: its message is printed as one line, ``exit_code`` is what the shell gets."""

    exit_code: ClassVar[int] = 1
    meaning: ClassVar[str] = "something else went wrong"


class ConfigProblem(AxiomError):
    """The configuration cannot be used."""

    exit_code = 3
    meaning = "the configuration cannot be used: an unknown key, a bad value, or not TOML"


class UnknownKey(ConfigProblem):
    """A key that does not exist; the message names the nearest one that does."""


class BadValue(ConfigProblem):
    """A value that its key cannot take."""


class NotAttached(AxiomError):
    """This host belongs to no project yet."""

    exit_code = 4
    meaning = "this host is not attached to a project"

    def __init__(self) -> None:
        super().__init__("not attached to a project; run: axiom-client attach URL")


class AlreadyAttached(AxiomError):
    """One agent folder serves one project."""

    exit_code = 5
    meaning = "this host is attached to a project already"


class AlreadyRunning(AxiomError):
    """Another agent holds the lock of this folder."""

    exit_code = 6
    meaning = "another agent runs in this folder"


class NotRunning(AxiomError):
    """The command speaks to a running agent, and there is none."""

    exit_code = 7
    meaning = "no agent is running"

    def __init__(self) -> None:
        super().__init__("no agent is running in this folder; start it with: axiom-client run")


class ControlRefused(AxiomError):
    """The agent's socket exists and does not let this user in, or does not answer."""

    exit_code = 8
    meaning = "the running agent does not let this user in, or does not answer"

    @classmethod
    def silent(cls) -> ControlRefused:
        """It listens, and says nothing."""
        return cls("the running agent does not answer; see its log with: axiom-client log")

    @classmethod
    def unreachable(cls, path: Path, error: OSError) -> ControlRefused:
        """The system does not let this user through, or something else is in the way."""
        if isinstance(error, PermissionError):
            return cls(
                f"the agent at {path} belongs to another user; run this command as that user"
            )
        return cls(f"the agent at {path} cannot be reached: {error.strerror}")


class NoSuchTask(AxiomError):
    """A task that this host does not have."""

    exit_code = 9
    meaning = "no such task on this host"


class ProjectProblem(AxiomError):
    """Something is wrong with the project's server, or the way to it."""

    exit_code = 10
    meaning = "the project's server could not be used"


class BadAddress(ProjectProblem):
    """Not a URL, or plain http to another machine."""

    exit_code = 11
    meaning = "the project's address is not usable"


class ServerNotThere(ProjectProblem):
    """Nothing answers at the address."""

    exit_code = 12
    meaning = "the project's server does not answer"


class NotAnAxiomServer(ProjectProblem):
    """Something answers, and it is not an Axiom server."""

    exit_code = 13
    meaning = "what answers at the address is not an Axiom server"


class HostRefused(ProjectProblem):
    """The project does not accept this host or this account."""

    exit_code = 14
    meaning = "the project does not accept this host or account"


class RequestRefused(ProjectProblem):
    """The server understood and refused; its own words are in the message."""

    exit_code = 15
    meaning = "the project's server refused the request"


class VersionMismatch(ProjectProblem):
    """Agent and server have no protocol version in common."""

    exit_code = 16
    meaning = "agent and server are too far apart in version"


class BundlesNotTrusted(ProjectProblem):
    """The project's signatures cannot be pinned."""

    exit_code = 17
    meaning = "the project's signatures could not be verified"


class DiskFull(AxiomError):
    """The disk that holds the agent's folder is full."""

    exit_code = 20
    meaning = "the disk is full; nothing was lost"

    def __init__(self, folder: object) -> None:
        super().__init__(
            f"no space left on the disk of {folder}; free some and start again, nothing is lost"
        )


class JournalBroken(AxiomError):
    """The journal cannot be opened, read or written."""

    exit_code = 21
    meaning = "the agent's own files cannot be read or written"


class ServiceProblem(AxiomError):
    """The operating system would not install, remove, start or show the service."""

    exit_code = 22
    meaning = "the operating system's service could not be installed, removed or reached"


class SandboxMissing(AxiomError):
    """This host cannot confine a task, so no work is run."""

    exit_code = 23
    meaning = "this host cannot confine tasks, so it runs none; see: axiom-client doctor"


class TrialFailed(AxiomError):
    """``axiom-client try``: the experiment could not be run, or did not succeed."""

    exit_code = 24
    meaning = "the experiment that was tried did not succeed"
