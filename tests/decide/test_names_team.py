"""The team tag in a name."""

from __future__ import annotations

import pytest

from axiom_server.decide.names import team_of


@pytest.mark.parametrize(
    ("name", "team"),
    [
        ("[DPC] hansR", "DPC"), ("zombie67 [MM]", "MM"), ("[VENETO] boboviz", "VENETO"),
        ("Steve Dodd", ""), ("[only]", ""), ("a [b] c", ""), ("[] x", ""), ("x [a][b]", "b"),
    ],
)  # fmt: skip
def test_a_tag_before_or_after_a_name_is_its_team(name: str, team: str) -> None:
    assert team_of(name) == team
