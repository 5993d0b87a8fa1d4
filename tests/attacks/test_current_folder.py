"""A module in the folder where the volunteer types a command is never imported by the agent."""

from __future__ import annotations

import ast
import asyncio
import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from axiom_client.errors import ServiceProblem
from axiom_client.host.gpu.probe import _ask_child
from axiom_client.host.speed import measure_speed
from axiom_client.project.fetch import Fetcher
from axiom_client.project.fetch_child import BundleReply, BundleRequest, FetchSettings
from axiom_client.sandbox import landlock, launch, mode
from axiom_client.service import base as service
from axiom_client.service.base import Completed
from axiom_client.service.systemd import SystemdService
from tests.support.processes import COMMAND_SECONDS_MAX
from tests.support.small_project import SmallProject, served

OURS = ("axiom_client", "axiom_server", "packaging")
#: Imported by the agent, its children or their libraries, early and late.
TRAPS = ("axiom_client", "axiom_protocol", "msgspec", "httpx", "tuf", "numpy", "torch", "json")
INTERPRETER = ("sys.executable", "python", "str(python)")

ROOT = Path(__file__).parents[2]


def trap_folder(folder: Path, proof: Path) -> Path:
    """A folder of modules that write to ``proof`` when they are imported."""
    folder.mkdir()
    code = f"import os\nopen({str(proof)!r}, 'a').write(__file__ + '\\n')\n"
    for name in TRAPS:
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(code)
    return folder


def test_every_command_in_a_folder_of_traps(tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    traps = trap_folder(tmp_path / "traps", proof)
    project = SmallProject(tmp_path / "project")
    ids = project.deploy(project.publish(), 2)
    environment = {
        **os.environ,
        "AXIOM_CLIENT_DIR": str(tmp_path / "agent"),
        "PYTHONPATH": str(ROOT),
    }

    def run(*words: str) -> None:
        code = "from axiom_client.cli.app import main; main()"  # as the installed program does
        subprocess.run(
            [sys.executable, "-P", "-c", code, *words],
            cwd=traps, env=environment, check=True, capture_output=True,
            timeout=COMMAND_SECONDS_MAX,
        )  # fmt: skip

    with served(project) as url:
        run("attach", url)
        run("run", "--no-display", "--until-idle")
        run("status")
    assert project.outcomes() == dict.fromkeys(ids, "success")
    assert not proof.exists(), proof.read_text()


@pytest.mark.parametrize("paths", [":/opt/tools", ".", "traps"])
def test_children_where_a_list_of_folders_names_the_current_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, paths: str
) -> None:
    """An empty entry is easily made: PYTHONPATH=$PYTHONPATH:/opt/tools."""
    proof = tmp_path / "proof"
    traps = trap_folder(tmp_path / "traps", proof)
    monkeypatch.chdir(tmp_path if paths == "traps" else traps)
    for name in ("PYTHONPATH", "PATH", "LD_LIBRARY_PATH"):
        monkeypatch.setenv(name, paths)

    async def start_all() -> None:
        assert (await measure_speed("any")).gflops > 0
        assert "exited" not in str((await _ask_child()).problems)
        settings = FetchSettings(folder=str(tmp_path), url="http://127.0.0.1:1")
        replies: asyncio.Queue[BundleReply] = asyncio.Queue()
        fetcher = Fetcher(settings, replies.put_nowait)
        fetcher.fetch(
            BundleRequest(experiment="a", version="1.0.0", sha256="0" * 64, accepted=False)
        )
        assert "ended early" not in (await replies.get()).problem
        await fetcher.close()

    asyncio.run(start_all())
    assert not proof.exists(), proof.read_text()
    libraries = launch.environment({}).get("LD_LIBRARY_PATH", "/")
    assert all(os.path.isabs(path) for path in libraries.split(":"))


def test_a_program_in_the_current_folder_is_not_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "trap").write_text("#!/bin/sh\n")
    (tmp_path / "trap").chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", ".:")
    with pytest.raises(ServiceProblem):
        service.run(["trap"])


def test_a_service_gets_the_folder_that_was_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative AXIOM_CLIENT_DIR is of the folder where the volunteer stands, not the service."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AXIOM_CLIENT_DIR", "agent")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    unit = SystemdService(
        scope="user", program=Path("/bin/true"), runner=lambda _: Completed(code=0)
    )
    unit.install()
    assert f"AXIOM_CLIENT_DIR={tmp_path}/agent" in unit.unit.read_text()


def test_the_traps_do_catch(tmp_path: Path) -> None:
    traps = trap_folder(tmp_path / "traps", tmp_path / "proof")
    subprocess.run([sys.executable, "-c", "import axiom_client"], cwd=traps, check=True)
    assert (tmp_path / "proof").exists()


def _modules() -> Iterator[tuple[Path, ast.Module]]:
    for package in OURS:
        for path in (ROOT / package).rglob("*.py"):
            yield path, ast.parse(path.read_text())


def test_every_interpreter_that_we_start_is_isolated() -> None:
    """Each command line that starts this interpreter has the option -P or -I."""
    exposed = [
        f"{path.relative_to(ROOT)}:{line}: {text}"
        for path, tree in _modules()
        for node in ast.walk(tree)
        if isinstance(node, ast.List | ast.Tuple | ast.Call)
        for line, text in _exposed(node)
    ]
    assert not exposed


def _exposed(node: ast.List | ast.Tuple | ast.Call) -> Iterator[tuple[int, str]]:
    words = node.args if isinstance(node, ast.Call) else node.elts
    for program, option in itertools.pairwise(ast.unparse(word) for word in words):
        if program in INTERPRETER and option in ("'-m'", "'-c'", "'-s'", "'-S'"):
            yield node.lineno, ast.unparse(node)


def test_the_windows_services_interpreter_is_isolated() -> None:
    source = (ROOT / "axiom_client/service/windows.py").read_text()
    assert "{python}" in source
    assert '"{python}" -P -m' in source


def test_a_bubblewrap_in_the_current_folder_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PATH may name the current folder; the program that confines tasks is never taken from it."""
    (tmp_path / "bwrap").write_text("#!/bin/sh\nexit 0\n")
    (tmp_path / "bwrap").chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", ".")
    monkeypatch.setattr(landlock, "abi_version", lambda: 0)
    assert mode.choose().mode == "none"
