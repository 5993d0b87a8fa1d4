"""Nothing is lost and nothing is paid twice between the two cores, whatever the network does.

``python -m tests.decide.together 1000000`` tries so many steps.
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings

from tests.decide.together.machine import Together

TestTogether = Together.TestCase
TestTogether.settings = settings(
    max_examples=30,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
