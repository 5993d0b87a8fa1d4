"""Requests of one run of an agent have an order."""

from __future__ import annotations

import pytest

from axiom_server.decide.request_order import is_outdated

RUN = "0123456789abcdef"


@pytest.mark.parametrize(
    ("request_id", "last", "outdated"),
    [
        (f"{RUN}-000007", f"{RUN}-000009", True),
        (f"{RUN}-999999", f"{RUN}-1000000", True),
        (f"{RUN}-000009", f"{RUN}-000009", False),  # the same: it is answered as before
        (f"{RUN}-000010", f"{RUN}-000009", False),
        (f"{RUN}-000001", "fedcba9876543210-000009", False),  # the agent was started again
        (f"{RUN}-000001", "", False),
        ("any-other-name", "any-other-form", False),
        (f"{RUN}-x", f"{RUN}-000009", False),
        (f"{RUN}-000009", f"{RUN}-x", False),
        ("-000001", "-000002", False),
    ],
)
def test_only_an_earlier_request_of_the_same_run_is_outdated(
    request_id: str, last: str, outdated: bool
) -> None:
    assert is_outdated(request_id, last) is outdated


def test_a_run_may_have_hyphens_in_its_name() -> None:
    assert is_outdated("a-b-000001", "a-b-000002")
    assert not is_outdated("a-b-000001", "a-c-000002")
