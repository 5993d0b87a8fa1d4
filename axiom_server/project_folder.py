"""A project's data folder: find or create it, and open its database.

The folder holds project.toml, postgres/, bundles/, keys/ and logs/.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from axiom_protocol.durable_file import replace_file
from axiom_server.config import Config, read_config, template
from axiom_server.errors import DiskFull, FileUnreadable, NotInitialised
from axiom_server.store.database import migrate
from axiom_server.store.embedded import EmbeddedPostgres
from axiom_server.trust.keys import init_keys, load_keys
from axiom_server.trust.repository import Repository

DIRECTORY_VARIABLE = "AXIOM_SERVER_DIR"
DATABASE_VARIABLE = "AXIOM_DATABASE_URL"


@dataclass(frozen=True)
class ProjectFolder:
    """One project's folder; ``path`` exists and holds a project."""

    path: Path

    @property
    def keys(self) -> Path:
        """Folder of the signing keys."""
        return self.path / "keys"

    @property
    def bundles(self) -> Repository:
        """The signed bundles."""
        return Repository(self.path / "bundles")

    def config(self) -> Config:
        """Parse project.toml. Raises ConfigWrong."""
        return read_config(self.path / "project.toml")

    @contextmanager
    def database(self, *, schema: bool = True) -> Iterator[str]:
        """The connection string of a database that runs during the block.

        The database is migrated to the newest schema. Without ``schema`` it is not, so that a
        backup can be restored into it.
        """
        if url := os.environ.get(DATABASE_VARIABLE):
            if schema:
                migrate(url)
            yield url
            return
        postgres = self.embedded()
        conninfo = postgres.open()
        try:
            if schema:
                migrate(conninfo)
            yield conninfo
        finally:
            postgres.close()

    def database_restarter(self) -> Callable[[], object] | None:
        """A function that starts the embedded PostgreSQL; None for an operator's database."""
        return None if os.environ.get(DATABASE_VARIABLE) else self.embedded().open

    def embedded(self) -> EmbeddedPostgres:
        """The embedded PostgreSQL, not yet open."""
        return EmbeddedPostgres(self.path / "postgres", self.path / "logs" / "postgres.log")


def default_path() -> Path:
    """The project folder that is used when none is given."""
    return platformdirs.user_data_path("axiom-server")


def find_project(given: Path | None) -> ProjectFolder:
    """The project folder of a command: as given, else from the environment, current or default.

    Raises NotInitialised.
    """
    variable = os.environ.get(DIRECTORY_VARIABLE)
    if given is not None or variable:
        path = given or Path(variable or "")
        if not (path / "project.toml").exists():
            raise NotInitialised(
                f"{path} holds no project; create one with: axiom-server init {path}"
            )
        return ProjectFolder(path.resolve())
    for path in (Path.cwd(), default_path()):
        if (path / "project.toml").exists():
            return ProjectFolder(path.resolve())
    raise NotInitialised(
        f"no project in this folder or in {default_path()}; create one: axiom-server init DIR, "
        f"then give --dir DIR or set {DIRECTORY_VARIABLE}"
    )


def initialise(path: Path, name: str, passphrase: str | None) -> ProjectFolder:
    """Create a project in ``path``: configuration, keys, an empty repository, a database.

    Safe to repeat after a crash. Raises FileUnreadable (also for an existing project), DiskFull.
    """
    if (path / "project.toml").exists():
        raise FileUnreadable(f"{path} holds a project already; nothing was changed")
    try:
        path.mkdir(parents=True, exist_ok=True)
        path = path.resolve()
        folder = ProjectFolder(path)
        if not any(folder.keys.glob("*.pem")):
            init_keys(folder.keys, passphrase)
        if not folder.bundles.metadata.exists:
            folder.bundles.create(load_keys(folder.keys, passphrase))
        with folder.database():
            pass
        # Written last: a folder with this file is complete.
        replace_file(path / "project.toml", template(name).encode())
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise DiskFull(f"no space left for a project in {path}") from None
        raise FileUnreadable(f"cannot create a project in {path}: {error.strerror}") from None
    return folder
