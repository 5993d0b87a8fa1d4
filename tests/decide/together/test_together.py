"""No result is lost or credited twice between agents and server, whatever the network does.

``make together`` tries a million steps.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

pytest.importorskip("psycopg")  # the server's own; `make fast` does without

from tests.decide.together.__main__ import main
from tests.decide.together.machine import Together

TestTogether = Together.TestCase
TestTogether.settings = settings(
    max_examples=30,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.parametrize("seed", [18, 19])
def test_thousands_of_steps(seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(3000, seed) == 0, capsys.readouterr().out
