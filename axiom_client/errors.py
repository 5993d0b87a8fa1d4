"""All errors that can end a command, as one tree.

AxiomError
├── ConfigProblem            the configuration cannot be used
│   ├── UnknownKey
│   └── BadValue
├── NotAttached              this host belongs to no project yet
├── AlreadyAttached
├── AlreadyRunning           another agent uses this folder
├── NotRunning               the command needs a running agent
├── ControlRefused           the running agent refuses the command, or does not answer
├── ProjectProblem           the project's server, or the network path to it, does not work
│   ├── BadAddress
│   ├── ServerNotThere
│   ├── NotAnAxiomServer
│   ├── HostRefused
│   ├── RequestRefused
│   ├── VersionMismatch
│   └── BundlesNotTrusted
├── DiskFull
├── JournalBroken
│   └── JournalDamaged       its contents cannot be read; the next start replaces it
├── ServiceProblem           the operating system could not install or control the service
├── SandboxMissing           this host cannot confine tasks, so it runs none
├── TrialFailed              ``axiom-client try``: the experiment did not succeed
├── UpdateTakenUp            the agent ended so that its launcher starts another version
└── NoSuchTask

Each class has an exit code. Each message says in one line what happened and what to do next.
``docs/exit-codes.md`` is checked against this file by a test.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

from typing import ClassVar


class AxiomError(Exception):
    """Ends a command: the message is printed as one line, and the shell gets ``exit_code``."""

    exit_code: ClassVar[int] = 1
    meaning: ClassVar[str] = "another error; its message says which"


class ConfigProblem(AxiomError):
    """The configuration cannot be used."""

    exit_code = 3
    meaning = "the configuration cannot be used: an unknown key, a bad value, or not TOML"


class UnknownKey(ConfigProblem):
    """A key that does not exist; the message names the most similar one that does."""


class BadValue(ConfigProblem):
    """A value that is not valid for its key."""


class NotAttached(AxiomError):
    """This host belongs to no project yet."""

    exit_code = 4
    meaning = "this host is not attached to a project"

    def __init__(self) -> None:
        super().__init__("not attached to a project; run: axiom-client attach URL")


class AlreadyAttached(AxiomError):
    """The agent's folder is attached to a project already; it can belong to one only."""

    exit_code = 5
    meaning = "this host is already attached to a project"


class AlreadyRunning(AxiomError):
    """Another agent holds the lock of the agent's folder."""

    exit_code = 6
    meaning = "another agent uses this folder already"


class NotRunning(AxiomError):
    """The command needs a running agent, and none runs."""

    exit_code = 7
    meaning = "no agent is running"

    def __init__(self) -> None:
        super().__init__("no agent is running in this folder; start it with: axiom-client run")


class ControlRefused(AxiomError):
    """The running agent refuses the command, does not answer, or belongs to another user."""

    exit_code = 8
    meaning = "the running agent refuses the command or this user, or does not answer"

    @classmethod
    def silent(cls) -> ControlRefused:
        """The agent accepts connections but sends no answer."""
        return cls("the running agent does not answer; see its log with: axiom-client log")

    @classmethod
    def unreachable(cls, path: Path, error: OSError) -> ControlRefused:
        """The operating system refuses the connection, for lack of permission or another reason."""
        if isinstance(error, PermissionError):
            return cls(
                f"the agent at {path} belongs to another user; run this command as that user"
            )
        return cls(f"the agent at {path} cannot be reached: {error.strerror}")


class NoSuchTask(AxiomError):
    """This host has no task of that number."""

    exit_code = 9
    meaning = "no such task on this host"


class ProjectProblem(AxiomError):
    """The project's server, or the network path to it, does not work."""

    exit_code = 10
    meaning = "the project's server could not be used"


class BadAddress(ProjectProblem):
    """The address is no URL, or is plain http to another machine."""

    exit_code = 11
    meaning = "the project's address is not usable"


class ServerNotThere(ProjectProblem):
    """Nothing answers at the address."""

    exit_code = 12
    meaning = "the project's server does not answer"


class NotAnAxiomServer(ProjectProblem):
    """What answers at the address is not an Axiom server."""

    exit_code = 13
    meaning = "what answers at the address is not an Axiom server"


class HostRefused(ProjectProblem):
    """The project does not accept this host or this account."""

    exit_code = 14
    meaning = "the project does not accept this host or account"


class RequestRefused(ProjectProblem):
    """The server refused the request; the message has its reason."""

    exit_code = 15
    meaning = "the project's server refused the request"


class VersionMismatch(ProjectProblem):
    """Agent and server have no protocol version in common."""

    exit_code = 16
    meaning = "agent and server have no protocol version in common; one needs an update"


class BundlesNotTrusted(ProjectProblem):
    """The project's signatures could not be verified when attaching."""

    exit_code = 17
    meaning = "the project's signatures could not be verified"


class DiskFull(AxiomError):
    """The disk that holds the agent's folder is full."""

    exit_code = 20
    meaning = "the disk is full; nothing was lost"

    def __init__(self, folder: object) -> None:
        super().__init__(
            f"no space left on the disk of {folder}; free some space and start again: nothing is "
            "lost"
        )


class JournalBroken(AxiomError):
    """The journal or another file of the agent cannot be opened, read or written."""

    exit_code = 21
    meaning = "the agent's own files cannot be read or written"


class JournalDamaged(JournalBroken):
    """The journal's contents are damaged or of another program; the next start replaces it."""

    def __init__(self, path: Path, problem: str) -> None:
        self.problem = problem
        super().__init__(
            f"{path}: {problem}; the next start puts it aside and saves what can be read: "
            "axiom-client run"
        )


class ServiceProblem(AxiomError):
    """The operating system could not install, remove, start or show the service."""

    exit_code = 22
    meaning = "the operating system's service could not be installed, removed or reached"


class SandboxMissing(AxiomError):
    """This host cannot confine tasks, so it runs none."""

    exit_code = 23
    meaning = "this host cannot confine tasks, so it runs none; see: axiom-client doctor"


class TrialFailed(AxiomError):
    """``axiom-client try``: the experiment could not be run, or did not succeed."""

    exit_code = 24
    meaning = "axiom-client try: the experiment did not succeed"


class UpdateTakenUp(AxiomError):
    """The agent ended so that its launcher starts another version of it."""

    exit_code = 25
    meaning = "the agent ended to start another version of itself; its launcher does that"
