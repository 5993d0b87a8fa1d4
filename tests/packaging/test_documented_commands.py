"""Run every command line in README and docs/, page by page, as a reader would type it.

A page is one shell session in a temporary home. ``https://project.example`` is a project of the
test, ``axiom-server serve`` gets a free port, and ``experiments/`` holds a short experiment under
each name, so that a page takes seconds. Commands that do not end on their own run in the
background. Blocks that need root, a package manager or another machine are marked in the page;
another test limits their number.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from tests.packaging.pages import PAGES, ROOT, Block, blocks, inline_commands
from tests.support import programs
from tests.support.processes import wait_for
from tests.support.programs import FIXTURES, PROGRAMS, Server, free_port

pytestmark = pytest.mark.slow  # a hundred real commands, each of them starting Python

WALK = (FIXTURES / "experiments/short_walk.py").read_text()
FIGURE = """\
# [[tool.axiom.figures]]
# name = "drawn"
# title = "Something to draw"
# x = "configs_done"
# y = ["exponent"]
# ///
"""
DRAWN = WALK.replace("# ///\n", FIGURE, 1)  # there is something to draw for --plot
RUNS_ON = re.compile(r"^axiom-(?:server serve|client run(?: --no-display)?|client top)\b")
ENDS_BY_ITSELF = ("--until-idle", "--seconds")
COMMAND_SECONDS = 240

#: Commands of the running text that only name a program, or are run elsewhere as they stand.
NAMED = {
    "axiom-client try", "axiom-server deploy", "axiom-server serve",
    # run in e2e/test_tls.py, with a test certificate and a port that needs no root
    "axiom-server serve --host 0.0.0.0 --port 443 --certificate fullchain.pem --key privkey.pem",
}  # fmt: skip
#: Replacements for words in capitals, and for files that a reader would have.
FILLED = {
    "[--param name=value] [--budget S] [--plot out.png] [--json]": "--param walks=50 --budget 1",
    "FILE --seed N": "experiments/rank_dynamics.py --seed 1",
    "restore FILE.tar.gz DIR": "backup b.tar.gz && axiom-server restore b.tar.gz restored",
    "backup FILE.tar.gz": "backup b.tar.gz",
    "import FILE": f"import {FIXTURES / 'session_2026-03-02_0300.json'}",
    "attach URL --root-fingerprint HEX": "attach URL --root-fingerprint $FINGERPRINT",
    "attach URL --root-fingerprint F": "attach URL --root-fingerprint $FINGERPRINT",
    "axiom-client attach URL": "AXIOM_CLIENT_DIR=$PWD/agent axiom-client attach $URL",
    "init DIR": "init another",
    "axiom-client config init": "AXIOM_CLIENT_DIR=$PWD/agent axiom-client config init",
    "keys init FOLDER": "keys init folder",
    "--add targets.pub": "--add $SECOND/targets.pub",
    "--add NEW.pub --drop ID": "--add $SECOND/root.pub --drop $ROOT_ID",
    "/path/ca.pem": "/etc/ssl/certs/ca-certificates.crt",
}


@dataclass(kw_only=True)
class Session:
    """A reader's shell: a folder, an environment, and what was started in it."""

    home: Path
    project_url: str
    account_key: str
    port: int = field(default_factory=free_port)
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder = self.home
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("AXIOM_", "XDG_"))}
        self.environment = {
            **kept, "HOME": str(self.home), "COLUMNS": "100",
            "PATH": f"{PROGRAMS}:{os.environ['PATH']}", "AXIOM_ACCOUNT_KEY": self.account_key,
        }  # fmt: skip

    def localised(self, line: str) -> str:
        """With this machine's addresses in place of those in the page."""
        line = line.replace("https://project.example", self.project_url)
        line = line.replace("127.0.0.1:8765", f"127.0.0.1:{self.port}")
        line = line.replace(
            "--keys /media/keys", "--keys keys --yes"
        )  # without a question at the terminal
        return re.sub(r"\baxiom-server serve\b", f"axiom-server serve --port {self.port}", line)

    def run(self, line: str) -> None:
        """Run one line to its end, or start it and see it live."""
        if RUNS_ON.match(line) and not any(word in line for word in ENDS_BY_ITSELF):
            self._start(line)
            return
        where = self.home / ".pwd"
        script = f"cd {shlex.quote(str(self.folder))}\n{self.localised(line)}\npwd > {where}"
        done = subprocess.run(
            ["bash", "-e", "-c", script], env=self.environment, capture_output=True, text=True,
            stdin=subprocess.DEVNULL, timeout=COMMAND_SECONDS, check=False,
        )  # fmt: skip
        log = self.home / ".background.log"
        said = done.stdout + done.stderr + (log.read_text() if log.exists() else "")
        assert done.returncode == 0, f"{line} -> {done.returncode}\n{said}"
        assert "Traceback" not in done.stdout + done.stderr
        self.folder = Path(where.read_text().strip())
        if line.startswith("axiom-client stop"):
            self.close()

    def _start(self, line: str) -> None:
        words = shlex.split(self.localised(line), comments=True)
        with (self.home / ".background.log").open("ab") as log:
            process = subprocess.Popen(
                words, cwd=self.folder, env=self.environment, stdout=log, stderr=log
            )
        self.started.append(process)
        if "serve" in words:
            wait_for("the server of the page", lambda: self._served(process))
        elif "run" in words:
            wait_for("the agent of the page", lambda: self._agent_runs(process))
        else:
            time.sleep(2)  # long enough for a start that fails to have failed
            assert process.poll() in (None, 0)
            process.send_signal(signal.SIGINT)
            process.wait(timeout=COMMAND_SECONDS)

    def _served(self, process: subprocess.Popen[bytes]) -> bool:
        assert process.poll() is None, (self.home / ".background.log").read_text()
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}/readyz", timeout=2).is_success
        except httpx.TransportError:
            return False

    def _agent_runs(self, process: subprocess.Popen[bytes]) -> bool:
        assert process.poll() is None, (self.home / ".background.log").read_text()
        shown = subprocess.run(
            ["axiom-client", "status", "--json"],
            env=self.environment,
            capture_output=True,
            text=True,
        )
        return '"not running"' not in shown.stdout

    def close(self) -> None:
        """End what the page left running."""
        for process in reversed(self.started):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.wait(timeout=COMMAND_SECONDS)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The project that pages call https://project.example, with a little work."""
    made = programs.server(tmp_path_factory.mktemp("example"))
    made.serve()
    made.run("publish", str(FIXTURES / "experiments/short_walk.py"))
    made.run("deploy", "short_walk", "--count", "50")
    yield made
    made.stop()


@pytest.fixture
def session(project: Server) -> Iterator[Session]:
    home = Path(tempfile.mkdtemp(prefix="axiom-"))  # short: the control socket's path has a limit
    key = project.json("users", "add", home.name)["account_key"]
    made = Session(home=home, project_url=project.url, account_key=key)
    experiments = made.home / "experiments"
    experiments.mkdir(parents=True)
    for path in (ROOT / "experiments").glob("*.py"):
        short = DRAWN.replace('name = "short_walk"', f'name = "{path.stem}"')
        (experiments / path.name).write_text(short)
    yield made
    made.close()
    shutil.rmtree(home)


def runnable(page: Path) -> list[Block]:
    return [block for block in blocks(page) if not block.skipped]


@pytest.mark.parametrize(
    "page", [page for page in PAGES if runnable(page)], ids=lambda page: page.name
)
def test_commands_of_the_page(page: Path, session: Session) -> None:
    for block in runnable(page):
        if block.before:
            session.run(block.before)
        if block.language == "python":
            if block.title:
                (session.folder / block.title).write_text(block.body)
            continue
        for line in block.commands:
            session.run(line)


def filled(line: str) -> str:
    for words, others in FILLED.items():
        line = line.replace(words, others)
    return line


def test_commands_of_the_running_text(project: Server, session: Session) -> None:
    """Each runs in a new project's folder, on an attached host with a running agent."""
    session.environment["AXIOM_KEYS_PASSPHRASE"] = "correct horse"
    keys = project.json("keys", "list")
    session.run("axiom-client attach https://project.example")
    session.run("axiom-server init project && mv experiments project")
    session.run("axiom-server keys init second")
    own = f"cd {session.home}/project && axiom-server keys list --json"
    listed = subprocess.run(
        ["sh", "-c", own], env=session.environment, capture_output=True, text=True, check=True
    )
    session.environment |= {
        "FINGERPRINT": keys["root_fingerprint"], "URL": project.url,
        "SECOND": f"{session.home}/second",
        "ROOT_ID": next(iter(json.loads(listed.stdout)["roles"]["root"]["keys"])),
    }  # fmt: skip
    session.run("axiom-client run --no-display")
    shown = dict.fromkeys(line for page in PAGES for line in inline_commands(page))
    for number, line in enumerate(line for line in shown if line not in NAMED):
        if line == "axiom-client top":
            session.run(line)
            continue
        session.folder = session.home
        session.run(f"cp -r project copy{number} && cd copy{number} && {filled(line)}")
