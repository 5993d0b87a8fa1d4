"""The trials of macOS and Windows: without a sandbox each of them finds that nothing is enforced.

So a report that all is enforced comes from the sandbox, never from a trial that cannot succeed.
"""

from __future__ import annotations

import errno
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from axiom_client.sandbox.common_trials import Outside, common_trials, refused

SLEEPING = "import time; time.sleep(120)"


def test_every_trial_succeeds_where_nothing_confines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = tmp_path / "outside.txt"
    outside.write_text("a file of the volunteer's")
    own = tmp_path / "own"
    own.mkdir()
    monkeypatch.chdir(own)
    agent = subprocess.Popen([sys.executable, "-c", SLEEPING])
    try:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            port = listening.getsockname()[1]
            answers = common_trials(Outside(file=str(outside), port=port, agent=agent.pid))
    finally:
        agent.kill()
        agent.wait()
    found = {name: enforced for name, enforced, _ in answers}
    assert found.pop("its own folder can be used")
    assert len(found) == 7
    assert not any(found.values()), answers
    assert not outside.exists()  # the trial did delete it


def test_only_a_refusal_counts_as_one() -> None:
    def fail() -> None:
        raise FileNotFoundError(2, "No such file or directory")

    def refuse() -> None:
        raise PermissionError(13, "Permission denied")

    def wait() -> None:
        raise TimeoutError("timed out")

    assert refused("x", refuse)[1]
    assert not refused("x", fail)[1]
    assert not refused("x", wait)[1]
    assert refused("x", wait, (errno.ETIMEDOUT,))[1]
