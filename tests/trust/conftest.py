"""A project, the server that serves it, and a host that has attached to it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from axiom_client.project.bundles import BundleStore
from axiom_server.trust.repository import Published
from tests.trust.hostile import HostileServer, Project, host, served


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A project with one key for each role."""
    return Project(tmp_path / "project")


@pytest.fixture
def walk(project: Project) -> Published:
    """The bundle that staff published."""
    return project.publish()


@pytest.fixture
def server(project: Project, walk: Published) -> Iterator[HostileServer]:
    """The project's server, which tests let an attacker control."""
    with served(project) as made:
        yield made


@pytest.fixture
def store(tmp_path: Path, server: HostileServer) -> Iterator[BundleStore]:
    """A host's bundle store; each call contacts the server, so that each attack takes effect."""
    with host(tmp_path / "host", server.url) as made:
        yield made
