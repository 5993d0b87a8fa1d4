"""Bad input gives one line that says what to do, and a documented exit code; no traceback."""

from __future__ import annotations

import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tests.support import programs
from tests.support.programs import FIXTURES, Program, Server, free_port

WALK = FIXTURES / "experiments" / "short_walk.py"


def refused(program: Program, *words: str) -> str:
    """The one line that a refused command prints; its exit code is in the documented table."""
    done = program.finish(*words)
    documented = (Path(__file__).parents[2] / "docs" / "exit-codes.md").read_text()
    assert f"| {done.returncode} |" in documented, f"exit code {done.returncode} is not documented"
    assert done.returncode != 0
    assert "Traceback" not in done.stdout + done.stderr
    lines = [text for text in done.stderr.splitlines() if text.strip()]
    assert len(lines) == 1, done.stderr
    return lines[0]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Server:
    """A project that is not served; refused commands do not change it, so all tests share it."""
    return programs.server(tmp_path_factory.mktemp("refusals"))


def test_server_that_is_not_there(agent: Program) -> None:
    port = free_port()
    said = refused(agent, "attach", f"http://127.0.0.1:{port}")
    assert str(port) in said


def test_address_of_something_else(agent: Program) -> None:
    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>a shop</html>")

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing: the test's output is the test's."""

    with HTTPServer(("127.0.0.1", 0), Other) as other:
        thread = threading.Thread(target=other.serve_forever)
        thread.start()
        said = refused(agent, "attach", f"http://127.0.0.1:{other.server_port}")
        other.shutdown()
        thread.join()
    assert "Axiom" in said


def test_an_invalid_address(agent: Program) -> None:
    assert "not a URL" in refused(agent, "attach", "nonsense")


def test_plain_http_to_another_machine(agent: Program) -> None:
    assert "https" in refused(agent, "attach", "http://project.example")


def test_run_without_attach(agent: Program) -> None:
    assert "axiom-client attach" in refused(agent, "run")


def test_config_key_that_does_not_exist(agent: Program) -> None:
    config = agent.folder / "config" / "config.toml"
    config.parent.mkdir(parents=True)
    config.write_text("[cpu]\ncorse = 2\n")
    said = refused(agent, "config", "check")
    assert "corse" in said
    assert "cores" in said


def test_port_in_use(project: Server) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        said = refused(project, "serve", "--port", str(port))
    assert str(port) in said
    assert "--port" in said


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("# /// script", "# no block", "metadata"),
        ('claim = "', "clam = '", "TOML"),
        ("expected_seconds = 1", "expected_secs = 1", "expected_secs"),
        ('field = "exponent"', 'field = "exponant"', "exponant"),
        ("default = 400", "default = 4", "walks"),
        ('["numpy"]', '["numpy", "requests"]', "requests"),
    ],
)
def test_malformed_experiment(
    project: Server, tmp_path: Path, old: str, new: str, expected: str
) -> None:
    source = WALK.read_text()
    assert old in source
    bad = tmp_path / "short_walk.py"
    bad.write_text(source.replace(old, new))
    assert expected in refused(project, "publish", str(bad))


def test_experiment_that_is_not_published(project: Server) -> None:
    project.run("publish", str(WALK))
    said = refused(project, "deploy", "short_wlak", "--count", "1")
    assert "short_walk" in said


def test_a_folder_that_holds_no_project(tmp_path: Path) -> None:
    empty = Server(name="axiom-server", folder=tmp_path, variable="AXIOM_SERVER_DIR")
    assert "axiom-server init" in refused(empty, "status")
