"""Errors shown to staff: one line that says what happened and what to do next.

ServerError                  exit 1   base class; used itself when no other fits
├── Usage                    exit 2   contradictory or unknown options (typer uses this code too)
├── NotInitialised           exit 3   the folder holds no project
├── ConfigWrong              exit 4   project.toml has an unknown key or a wrong value
├── DatabaseUnreachable      exit 5   PostgreSQL does not answer, or cannot be started
├── PortInUse                exit 6   another program listens there
├── ExperimentMalformed      exit 7   the file's metadata is missing or wrong
├── ExperimentUnknown        exit 8   no published experiment of that name
├── FileUnreadable           exit 9   a given file is missing or has the wrong content
├── DiskFull                 exit 10  no space left on the disk
├── SigningFailed            exit 11  a signing key is missing or cannot be decrypted
├── NotFound                 exit 12  no such host, user, session or study
├── DryRunFailed             exit 13  the experiment did not pass its dry run
└── ReleaseMalformed         exit 14  the archive is no release of axiom-client, or an older one
"""

from __future__ import annotations


class ServerError(Exception):
    """An error with a one-line message; ``exit_code`` is the exit status of the command."""

    exit_code = 1


class Usage(ServerError):
    """Options that contradict each other, or have an unknown value."""

    exit_code = 2


class NotInitialised(ServerError):
    """The data folder holds no project."""

    exit_code = 3


class ConfigWrong(ServerError):
    """project.toml has an unknown key or a value of the wrong kind."""

    exit_code = 4


class DatabaseUnreachable(ServerError):
    """PostgreSQL does not answer, or the embedded one cannot be started."""

    exit_code = 5


class TransactionConflict(DatabaseUnreachable):
    """PostgreSQL ended a transaction for a conflict with others. It can be repeated."""


class PortInUse(ServerError):
    """Another program listens on the address."""

    exit_code = 6


class ExperimentMalformed(ServerError):
    """The experiment's metadata is missing or wrong, or its version is already published."""

    exit_code = 7


class ExperimentUnknown(ServerError):
    """No published experiment of that name."""

    exit_code = 8


class FileUnreadable(ServerError):
    """A file given on the command line is missing or has the wrong content."""

    exit_code = 9


class DiskFull(ServerError):
    """No space left on the device that holds the project."""

    exit_code = 10


class SigningFailed(ServerError):
    """A signing key is missing or cannot be decrypted."""

    exit_code = 11


class NotFound(ServerError):
    """No such host, user, session or study."""

    exit_code = 12


class DryRunFailed(ServerError):
    """The experiment failed, was not deterministic, or used more than it declares.

    Nothing was published.
    """

    exit_code = 13


class ReleaseMalformed(ServerError):
    """The archive is no release of axiom-client, or it would change or precede one."""

    exit_code = 14
