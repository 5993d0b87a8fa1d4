"""The real agent against a server in an attacker's hands: database, online keys, address."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from axiom_server.trust.repository import Published
from tests.support.commands import run_command
from tests.support.small_project import SmallProject, served
from tests.trust.hostile import script

RUN_SECONDS_MAX = 240  # a loaded two-core machine


class TakenOver(SmallProject):
    """A project whose server an attacker controls; the staff's keys are not stolen."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.folder = folder
        self.replaced: dict[str, bytes] = {}  # by path below /bundles/
        self.replaced_once: dict[str, bytes] = {}  # the same, for one request each
        self.serve_from = folder / "bundles"

    def file(self, path: str) -> bytes | None:
        path = path.removeprefix("/bundles/")
        if path in self.replaced_once:
            return self.replaced_once.pop(path)
        if path in self.replaced:
            return self.replaced[path]
        found = self.serve_from / path
        return found.read_bytes() if found.is_file() else None

    def withdraw(self, bundle: Published) -> None:
        self._repository.withdraw(bundle.name, bundle.version, self._keys)

    def grant(self, bundle: Published, **changes: object) -> int:
        """Queue one task that differs from an honest one; its id."""
        (task_id,) = self.deploy(bundle, 1)
        self.queue[-1] = msgspec.structs.replace(self.queue[-1], **changes)
        return task_id


class Volunteer:
    """The agent as a process, in its own folder."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.url = url

    def __call__(self, *words: str) -> str:
        """Run a command to its end; all that it said."""
        environment = {**os.environ, "AXIOM_CLIENT_DIR": str(self.folder)}
        done = run_command("axiom-client", *words, environment=environment, seconds=RUN_SECONDS_MAX)
        said = done.stdout + done.stderr
        assert done.returncode == 0, said
        assert "Traceback" not in said
        return said

    def work(self) -> str:
        """Do all that is granted."""
        return self("run", "--until-idle", "--no-display")


@pytest.fixture
def project(tmp_path: Path) -> TakenOver:
    made = TakenOver(tmp_path / "project")
    made.next_sync_seconds = 1.0
    return made


@pytest.fixture
def volunteer(project: TakenOver, tmp_path: Path) -> Iterator[Volunteer]:
    with served(project) as url:
        agent = Volunteer(tmp_path / "agent", url)
        agent("attach", url)
        yield agent


def messages(project: TakenOver) -> dict[int, str]:
    return {task_id: reports[0].message for task_id, reports in project.reports.items()}


def test_only_signed_versions_that_are_not_withdrawn_run(
    project: TakenOver, volunteer: Volunteer
) -> None:
    old = project.publish(script("1.0.0"))
    project.deploy(old, 1)
    volunteer.work()
    assert project.outcomes() == {1: "success"}

    new = project.publish(script("2.0.0"))
    project.withdraw(old)
    evil = script("2.0.0", remark="\nSTEPS = (1,)\n")
    evil_sha256 = hashlib.sha256(evil).hexdigest()
    project.replaced[f"targets/{evil_sha256}.short_walk@2.0.0.py"] = evil
    refused = {
        project.grant(old): "withdrawn",
        project.grant(new, sha256=evil_sha256): "wrong software",
        project.grant(new, parameters={"walks": 10**9}): "out of range",
        project.grant(new, parameters={"walks": "__import__('os')"}): "out of range",
        project.grant(new, parameters={"path": "/etc/passwd"}): "out of range",
    }
    honest = project.grant(new)
    volunteer.work()
    assert project.outcomes()[honest] == "success"
    for task_id, attack in refused.items():
        assert project.outcomes()[task_id] != "success"
        assert attack in messages(project)[task_id]

    names = ({"version": "6.6.6"}, {"version": "1.0.0"}, {"experiment": "../../evil"})
    borrowed = [project.grant(new, **name) for name in names]  # signed bytes, other names
    volunteer.work()
    for task_id in borrowed:
        assert project.outcomes()[task_id] == "failed"
        assert "bundle refused: " in messages(project)[task_id]
    honest = project.grant(new)
    volunteer.work()
    assert project.outcomes()[honest] == "success"


def test_attacks_on_the_metadata_are_named_and_the_agent_goes_on(
    project: TakenOver, volunteer: Volunteer, tmp_path: Path
) -> None:
    walk = project.publish(script("1.0.0"))
    before = shutil.copytree(project.folder / "bundles", tmp_path / "before")
    project.publish(script("2.0.0"))
    project.deploy(walk, 1)
    volunteer.work()
    attacks = {
        "rollback": lambda: setattr(project, "serve_from", before),
        "malformed metadata": lambda: project.replaced.update(
            {"metadata/timestamp.json": b"<html>"}
        ),
        "endless data": lambda: project.replaced.update({"metadata/timestamp.json": b" " * 20_000}),
    }
    for count, (attack, begin) in enumerate(attacks.items(), start=2):
        begin()
        project.deploy(walk, 1)
        assert f"refused: {attack}" in volunteer.work()
        assert project.outcomes() == dict.fromkeys(range(1, count + 1), "success")


@pytest.mark.parametrize("damage", ["removed", "overwritten"])
def test_an_agent_goes_on_when_all_that_it_has_fetched_is_lost(
    project: TakenOver, volunteer: Volunteer, damage: str
) -> None:
    bundle = project.publish(script("1.0.0"))
    project.deploy(bundle, 1)
    volunteer.work()
    bundles = volunteer.folder / "state" / "bundles"
    assert (bundles / "pinned.root.json").exists()
    if damage == "removed":
        shutil.rmtree(bundles)
    else:
        for path in [path for path in bundles.rglob("*") if path.is_file()]:
            path.write_bytes(b"\xff" * 99)
    project.deploy(bundle, 1)
    volunteer.work()
    assert project.outcomes() == {1: "success", 2: "success"}


@pytest.mark.parametrize("page", [b"<html>Sign in</html>", b"", b" " * 100_000])
def test_a_sign_in_page_instead_of_a_bundle_does_not_fail_its_task(
    project: TakenOver, volunteer: Volunteer, page: bytes
) -> None:
    bundle = project.publish(script("1.0.0"))
    project.replaced_once[f"targets/{bundle.sha256}.{bundle.name}@{bundle.version}.py"] = page
    project.deploy(bundle, 1)
    assert "could not be fetched" in volunteer.work()
    assert not project.replaced_once
    assert project.outcomes() == {1: "success"}
