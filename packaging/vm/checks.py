"""Checks with a line of output each; a failed check does not stop the rest."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Checks:
    """The checks of one run. A check is a function that raises when its claim does not hold."""

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self._made: list[dict[str, Any]] = []

    @property
    def failed(self) -> list[str]:
        """The claims that did not hold."""
        return [check["claim"] for check in self._made if not check["holds"]]

    def check(self, claim: str, step: Callable[[], object]) -> bool:
        """Try one claim and print whether it holds, with what the step returned."""
        begun = time.monotonic()
        try:
            detail, holds = step(), True
        except Exception as error:  # noqa: BLE001  recorded; the next check is made
            detail, holds = f"{type(error).__name__}: {error}"[-2000:], False
            traceback.print_exc()
        seconds = round(time.monotonic() - begun, 1)
        self._made.append({"claim": claim, "holds": holds, "seconds": seconds, "detail": detail})
        shown = "" if detail is None else f": {detail}"
        print(f"{'ok' if holds else 'FAILED':<7}{seconds:7.1f} s  {claim}{shown}", flush=True)
        if self._file is not None:
            self._file.write_text(json.dumps(self._made, indent=1, default=str) + "\n")
        return holds

    def summary(self) -> int:
        """Print the count; returns the exit code."""
        failed = len(self.failed)
        print(f"{len(self._made) - failed} passed, {failed} failed")
        return int(failed > 0)


def require(condition: object, otherwise: object = "") -> None:
    """Raise unless the condition holds, naming what was seen instead."""
    if not condition:
        raise AssertionError(f"seen instead: {otherwise}")
