"""The agent's folders: the platform's usual places, or all under AXIOM_CLIENT_DIR.

The service that packages install runs as the user axiom-client. Any command run as that user uses
the service's folders, so that ``attach`` and ``status`` act on the agent that the service runs.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from msgspec import Struct

from axiom_client.errors import ConfigProblem
from axiom_protocol.text import has_undecoded_bytes


class Folders(Struct, frozen=True, kw_only=True):
    """The agent's folders and files. ``state`` is private to its owner."""

    config: Path
    state: Path
    cache: Path
    logs: Path | None = None  # set by the service manager; None: in ``state``

    @property
    def config_file(self) -> Path:
        """The configuration, which the volunteer edits."""
        return self.config / "config.toml"

    @property
    def identity_file(self) -> Path:
        """The project, this host's number in it and its secret token."""
        return self.state / "identity.json"

    @property
    def journal_file(self) -> Path:
        """The journal: tasks in hand and unsent reports."""
        return self.state / "journal.sqlite"

    @property
    def control_socket(self) -> Path:
        """The socket at which the running agent takes commands from its owner."""
        return self.state / "control.sock"

    @property
    def speed_file(self) -> Path:
        """The result of the short speed benchmark."""
        return self.state / "speed.json"

    @property
    def lock_file(self) -> Path:
        """Locked by the running agent: one agent for each folder."""
        return self.state / "agent.lock"

    @property
    def log_file(self) -> Path:
        """The agent's log."""
        return (self.logs or self.state) / "agent.log"

    @property
    def tasks(self) -> Path:
        """One folder for each task."""
        return self.state / "tasks"

    @property
    def bundles(self) -> Path:
        """Verified experiments and the project's pinned signatures.

        These are state, not cache: clearing a cache must neither unpin the signing root nor forget
        which metadata versions were seen, which protects against a rollback.
        """
        return self.state / "bundles"

    @property
    def releases(self) -> Path:
        """Releases of the agent that it updates itself to."""
        return self.state / "releases"

    def make(self) -> None:
        """Create the missing folders; only the owner can read ``state``."""
        for folder in (self.config, self.cache):
            folder.mkdir(parents=True, exist_ok=True)
        for folder in (self.state, self.tasks, self.bundles):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            folder.chmod(0o700)


SERVICE_USER = "axiom-client"
_SERVICE_FOLDERS = Folders(
    config=Path("/etc/axiom-client"),
    state=Path("/var/lib/axiom-client"),
    cache=Path("/var/cache/axiom-client"),
    logs=Path("/var/log/axiom-client"),
)


def one_folder() -> Path | None:
    """The folder of AXIOM_CLIENT_DIR, made absolute; None where it is not set."""
    named = os.environ.get("AXIOM_CLIENT_DIR")
    return Path(named).expanduser().absolute() if named else None


def find_folders() -> Folders:
    """The folders under AXIOM_CLIENT_DIR, else the service's for its user, else the platform's."""
    if base := one_folder():
        return _checked(Folders(config=base / "config", state=base / "state", cache=base / "cache"))
    if _is_service_user():
        return _SERVICE_FOLDERS
    import platformdirs

    return _checked(
        Folders(
            config=platformdirs.user_config_path("axiom-client"),
            state=platformdirs.user_state_path("axiom-client"),
            cache=platformdirs.user_cache_path("axiom-client"),
        )
    )


def _checked(folders: Folders) -> Folders:
    """Raise ConfigProblem where processes of tasks, which use UTF-8, could not find the folders."""
    named = "".join(map(str, (folders.config, folders.state, folders.cache)))
    if named.isascii() or (
        sys.getfilesystemencoding() == "utf-8" and not has_undecoded_bytes(named)
    ):
        return folders
    raise ConfigProblem(
        f"the path {str(folders.state)!a} is not UTF-8 in this locale; set AXIOM_CLIENT_DIR to "
        "a folder with a plain name, or PYTHONUTF8 to 1"
    )


def _is_service_user() -> bool:
    if sys.platform == "win32":
        return False
    else:  # noqa: RET505  mypy skips a branch, not what follows one
        import pwd

        try:
            return pwd.getpwuid(os.geteuid()).pw_name == SERVICE_USER
        except KeyError:  # in a container the user may have no name
            return False
