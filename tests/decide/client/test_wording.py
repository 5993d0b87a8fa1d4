"""Singular and plural in what the agent tells people."""

from __future__ import annotations

import pytest

from axiom_client.decide import commands as c
from axiom_client.decide import events as e
from axiom_client.decide.agent import step
from axiom_client.decide.model import AgentState, Limits, TaskRecord
from axiom_protocol.messages import Grant
from axiom_protocol.text import counted, megabytes


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 tasks"), (1, "1 task"), (2, "2 tasks"), (1500, "1,500 tasks")]
)
def test_a_number_with_its_noun(number: int, text: str) -> None:
    assert counted(number, "task") == text


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [(0, "0 MB"), (-5e9, "0 MB"), (1_499_999, "1 MB"), (1_500_001, "2 MB"), (3e9, "3,000 MB")],
)
def test_a_size_in_megabytes(size_bytes: float, text: str) -> None:
    assert megabytes(size_bytes) == text


@pytest.mark.parametrize(
    ("tasks", "line"),
    [
        (1, "1 task kept from the last run of the agent"),
        (2, "2 tasks kept from the last run of the agent"),
    ],
)
def test_tasks_in_hand_at_the_start_are_counted_in_good_english(tasks: int, line: str) -> None:
    records = [
        TaskRecord(
            grant=Grant(
                task_id=i, experiment="walk", version="1.0.0", sha256="0" * 64,
                parameters={}, seed=1, budget_seconds=10.0, lease_seconds=3600.0, device="cpu",
            ),
            order=i,
            lease_until_wall=1e9,
        )
        for i in range(1, tasks + 1)
    ]  # fmt: skip
    started = e.AgentStarted(now=0.0, wall=0.0, instance="x", limits=Limits(), tasks=records)
    _, commands = step(AgentState(), started)
    assert line in [command.text for command in commands if isinstance(command, c.LogLine)]
