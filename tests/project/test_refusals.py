"""The agent's messages for refusals of the server."""

from __future__ import annotations

import msgspec
import pytest

from axiom_client.project.api import Api, Network
from axiom_client.project.slim_httpx import httpx
from axiom_protocol.messages import Problem


@pytest.mark.parametrize(
    ("title", "detail", "text"),
    [
        ("The name 'U7' is taken", "Choose another name.",
         "refused: The name 'U7' is taken. Choose another name."),
        ("No account has this key.", "Check the key.",
         "refused: No account has this key. Check the key."),
        ("Not now", "", "refused: Not now"),
    ],
)  # fmt: skip
def test_title_and_detail_are_two_sentences(title: str, detail: str, text: str) -> None:
    problem = Problem(title=title, detail=detail, status=409)
    api = Api("http://127.0.0.1:1", Network())
    refusal = api._refusal(409, msgspec.json.encode(problem), httpx.Headers())
    assert str(refusal) == f"http://127.0.0.1:1 {text}"
