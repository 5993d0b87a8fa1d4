"""Where the agent keeps its things: the platform's places, or all under AXIOM_CLIENT_DIR.

The service that packages install runs as the user axiom-client; whatever that user calls finds the
service's places, so that ``attach`` and ``status`` speak of the same agent.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from msgspec import Struct


class Folders(Struct, frozen=True, kw_only=True):
    """The agent's places. ``state`` is private to its owner."""

    config: Path
    state: Path
    cache: Path
    logs: Path | None = None  # where the service manager wants logs; else with the state

    @property
    def config_file(self) -> Path:
        """What the volunteer edits."""
        return self.config / "config.toml"

    @property
    def identity_file(self) -> Path:
        """Who this host is to its project, with the secret token."""
        return self.state / "identity.json"

    @property
    def journal_file(self) -> Path:
        """Tasks and unsent reports."""
        return self.state / "journal.sqlite"

    @property
    def control_socket(self) -> Path:
        """Where the running agent listens to its owner."""
        return self.state / "control.sock"

    @property
    def speed_file(self) -> Path:
        """What the quick benchmark found."""
        return self.state / "speed.json"

    @property
    def lock_file(self) -> Path:
        """Held by the one agent that may run here."""
        return self.state / "agent.lock"

    @property
    def log_file(self) -> Path:
        """What the agent did, in lines."""
        return (self.logs or self.state) / "agent.log"

    @property
    def tasks(self) -> Path:
        """One folder for each task."""
        return self.state / "tasks"

    @property
    def bundles(self) -> Path:
        """Verified experiments and the project's pinned signatures.

        State, not cache: whoever clears a cache must not unpin the root or forget what was seen.
        """
        return self.state / "bundles"

    def make(self) -> None:
        """Create what is missing; the state is for its owner's eyes only."""
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


def find_folders() -> Folders:
    """AXIOM_CLIENT_DIR's, else the service's when its user asks, else the platform's."""
    if one := os.environ.get("AXIOM_CLIENT_DIR"):
        base = Path(one).expanduser().absolute()
        return Folders(config=base / "config", state=base / "state", cache=base / "cache")
    if _is_service_user():
        return _SERVICE_FOLDERS
    import platformdirs

    return Folders(
        config=platformdirs.user_config_path("axiom-client"),
        state=platformdirs.user_state_path("axiom-client"),
        cache=platformdirs.user_cache_path("axiom-client"),
    )


def _is_service_user() -> bool:
    if sys.platform == "win32":
        return False
    import pwd

    try:
        return pwd.getpwuid(os.geteuid()).pw_name == SERVICE_USER
    except KeyError:  # a container's number without a name
        return False
