"""Each file that a person writes or copies, saved in every way: read, or refused in plain words."""

from __future__ import annotations

import codecs
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from axiom_client.config.schema import read_file as read_client_config
from axiom_client.errors import ConfigProblem
from axiom_client.run.tryout import TryProblem, read_script
from axiom_protocol.given_file import FileProblem, read_text
from axiom_protocol.verdicts.study_design import StudyError, read_study
from axiom_server.cli.shared import name_of, title_of
from axiom_server.config import read_config, template
from axiom_server.errors import ServerError, Usage
from axiom_server.publish.dry_run import read_recorded_run
from axiom_server.publish.publish import read_source, read_sweep
from axiom_server.transfer.import_project import read_history
from axiom_server.trust.signing_request import read_request
from tests.support.programs import FIXTURES, PROGRAMS

SCRIPT = (FIXTURES / "experiments" / "short_walk.py").read_text()
PLAIN = (ConfigProblem, TryProblem, FileProblem, StudyError, ServerError)
RECORDED = """{"experiment": "a", "sha256": "0", "seed": 1, "budget_seconds": 1,
"outcome": "success",
"elapsed_seconds": 1, "cpu_seconds": 1, "peak_memory_bytes": 1}
"""
IDENTITY = '{"url":"http://127.0.0.1:1/","project":"T","host_id":1,"token":"t","user":"u"}'
REQUEST = """{"type": "axiom-signing-request", "role": "root", "root": "{}", "current": "{}",
"proposed": "{}"}
"""


def read_study_file(path: Path) -> object:
    return read_study(read_text(path, 1_000_000))


#: A valid text of each kind, and what reads it.
READERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "the agent's configuration": ('[cpu]\nshare = "50%"\n', read_client_config),
    "project.toml": (template("T"), read_config),
    "parameter sets": ("[product]\nwalks = [8, 16]\n", read_sweep),
    "a recorded run": (RECORDED, read_recorded_run),
    "a signing request": (REQUEST, read_request),
    "a history": ('{"results": []}\n', read_history),
    "a script to try": (SCRIPT, read_script),
    "a script to publish": (SCRIPT, read_source),
}
SCRIPTS = ("a script to try", "a script to publish")
TEXTS = [name for name in READERS if name not in SCRIPTS]


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_a_byte_order_mark_and_windows_line_ends_are_read(
    tmp_path: Path, name: str, ends: str
) -> None:
    text, read = READERS[name]
    path = tmp_path / "file"
    path.write_text(text)
    plain = read(path)
    path.write_bytes(codecs.BOM_UTF8 + text.replace("\n", ends).encode())
    if name == "a history":  # with the digest of its bytes
        assert read(path)[0] == plain[0]
    else:
        assert read(path) == plain


def spoiled(text: str) -> dict[str, bytes]:
    return {
        "UTF-16": text.encode("utf-16"),
        "UTF-16 without a mark": text.encode("utf-16-le"),
        "UTF-32": text.encode("utf-32"),
        "Latin-1": text.encode() + "# caf\xe9".encode("latin-1"),
        "NUL": text.encode() + b"\0",
        "nested": b"[" * 100_000,
        "many digits": b"a = " + b"9" * 10_000,
    }


@pytest.mark.parametrize("name", [*READERS, "a study"])
@pytest.mark.parametrize("how", spoiled(""))
def test_what_is_no_such_text_is_refused_in_plain_words(
    tmp_path: Path, name: str, how: str
) -> None:
    text, read = READERS.get(name, ('name = "s"\n', read_study_file))
    path = tmp_path / "file"
    path.write_bytes(spoiled(text)[how])
    with pytest.raises(PLAIN) as caught:
        read(path)
    assert "codec" not in str(caught.value)
    if how.startswith("UTF"):
        assert "UTF-8" in str(caught.value)


@pytest.mark.parametrize("name", [*READERS, "a study"])
@pytest.mark.parametrize("what", ["folder", "loop", "endless"])
def test_what_is_no_file_is_refused_in_plain_words(tmp_path: Path, name: str, what: str) -> None:
    _, read = READERS.get(name, ('name = "s"\n', read_study_file))
    path = tmp_path / "file"
    if what == "folder":
        path.mkdir()
    else:
        path.symlink_to("file" if what == "loop" else "/dev/zero")
    with pytest.raises(PLAIN, match="file"):
        read(path)


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_with_a_byte_order_mark_is_told_to_be_saved_without(
    tmp_path: Path, name: str
) -> None:
    """The agents that are out there compile its text, which must not begin with one."""
    path = tmp_path / "file"
    path.write_bytes(codecs.BOM_UTF8 + SCRIPT.encode())
    with pytest.raises(PLAIN, match="byte-order mark"):
        READERS[name][1](path)


@pytest.mark.parametrize(
    "name", ["", " ", "a\nb", "a\u202eb", "\u200b", "x" * 101, "a\x1b[31m", " a"]
)
def test_a_name_that_could_not_be_shown_is_refused(name: str) -> None:
    for check in (title_of, name_of):
        with pytest.raises(Usage):
            check(name)


@pytest.mark.parametrize("name", ["Ann", "Zoë [Team]", "李雷", "O'Brien"])
def test_names_of_people_are_kept(name: str) -> None:
    assert name_of(name) == title_of(name) == name


WORDS = {
    "axiom-client": ("config", "set", "host.name"),
    "axiom-server": ("init", "--name"),
}


@pytest.mark.parametrize("program", WORDS)
def test_bytes_that_are_no_text_end_no_command_in_a_traceback(tmp_path: Path, program: str) -> None:
    folders = {"AXIOM_CLIENT_DIR": str(tmp_path), "AXIOM_SERVER_DIR": str(tmp_path)}
    last = [str(tmp_path / "new")] if program == "axiom-server" else []
    done = subprocess.run(
        [PROGRAMS / program, *WORDS[program], b"\xff", *last],
        env={**os.environ, **folders}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode in (2, 3), done.stderr
    assert len(done.stderr.splitlines()) == 1


ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names themselves")
@pytest.mark.parametrize(
    "variables", [{}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}]
)
def test_a_folder_whose_name_children_could_not_find_is_refused(
    tmp_path: Path, variables: dict[str, str]
) -> None:
    name = b"/m\xc3\xbcller" if variables else b"/m\xfcller"
    done = subprocess.run(
        [PROGRAMS / "axiom-client", "status"],
        env={**os.environ, **variables, "AXIOM_CLIENT_DIR": os.fsencode(tmp_path) + name},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == ConfigProblem.exit_code, done.stderr
    assert "AXIOM_CLIENT_DIR" in done.stderr


@pytest.mark.parametrize("name", ["identity.json", "journal.sqlite"])
def test_a_loop_of_links_among_the_agents_files_is_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "identity.json").write_text(IDENTITY)
    (tmp_path / "state" / name).unlink(missing_ok=True)
    (tmp_path / "state" / name).symlink_to(name)
    done = subprocess.run(
        [PROGRAMS / "axiom-client", "status"],
        env={**os.environ, "AXIOM_CLIENT_DIR": str(tmp_path)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode in (0, 21), done.stderr
    assert "Traceback" not in done.stderr
