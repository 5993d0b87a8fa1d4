"""The fetch process ends when its agent ends, in whatever way."""

from __future__ import annotations

import subprocess
import sys

import pytest

SETTINGS = b'{"folder": "/nowhere", "url": "http://127.0.0.1:9", "proxy": "", "ca_bundle": ""}'


@pytest.mark.parametrize(
    "said",
    [b"", SETTINGS[:20], SETTINGS, SETTINGS + b"\n", SETTINGS + b'\n{"experiment": "wa'],
    ids=["nothing", "half of the settings", "no line feed", "no request", "half of a request"],
)
def test_input_that_breaks_off_is_an_end_and_no_error(said: bytes) -> None:
    child = [sys.executable, "-m", "axiom_client.project.fetch_child"]
    done = subprocess.run(child, input=said, capture_output=True, check=False, timeout=90)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
