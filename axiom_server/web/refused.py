"""The exception for a refused request, which holds the answer to the client."""

from __future__ import annotations

import math

from axiom_protocol.messages import Problem


class Refused(Exception):
    """A refused request.

    problem      the body of the answer: what is wrong, and what to do
    retry_after  seconds after which the client may try again; None: it need not
    """

    def __init__(
        self, status: int, title: str, detail: str = "", retry_after: float | None = None
    ) -> None:
        super().__init__(title)
        self.problem = Problem(title=title, detail=detail[:2000], status=status)
        self.retry_after = retry_after

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the answer."""
        if self.retry_after is None:
            return {}
        return {"retry-after": str(max(1, math.ceil(self.retry_after)))}
