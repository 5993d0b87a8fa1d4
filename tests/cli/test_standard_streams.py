"""A log that cannot be written, as on a full disk, changes nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FULL = Path("/dev/full")
pytestmark = pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")


def exit_code(*words: str, **environment: str) -> int:
    """The exit code of a Python program whose standard error is on a full disk."""
    with FULL.open("wb") as full:
        return subprocess.run(
            [sys.executable, "-P", *words],
            env=os.environ | environment, stderr=full, stdout=subprocess.DEVNULL, check=False,
        ).returncode  # fmt: skip


def test_the_agent_ends_with_the_code_of_its_error(tmp_path: Path) -> None:
    assert exit_code("-m", "axiom_client", "run", AXIOM_CLIENT_DIR=str(tmp_path)) == 4


def test_the_server_ends_with_the_code_of_its_error(tmp_path: Path) -> None:
    assert exit_code("-m", "axiom_server.cli.app", "--dir", str(tmp_path), "serve") == 3


LOGS = """
import logging, structlog
from axiom_protocol.standard_streams import prepare_standard_streams
from axiom_server.web.serve import configure_logs

prepare_standard_streams()
configure_logs()
for _ in range(1000):
    structlog.get_logger().warning("maintenance round failed", why="x" * 100)
    logging.getLogger("psycopg.pool").warning("error connecting")
raise SystemExit(17)
"""


def test_what_logs_goes_on() -> None:
    assert exit_code("-c", LOGS) == 17
