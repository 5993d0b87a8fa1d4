"""A system library whose functions give recorded answers: documented by its vendor, or seen.

An answer is a value, or a function of the call's arguments that may write to those that are
references, as the real one does. Each call is kept, with what it was given.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from axiom_client.system import libraries

Answer = Callable[..., Any] | Any


class RecordedFunction:
    """One function. ctypes lets callers declare its types, so these can be set here too."""

    def __init__(self, name: str, answer: Answer, calls: list[tuple[Any, ...]]) -> None:
        self.name, self._answer, self._calls = name, answer, calls
        self.restype: Any = None
        self.argtypes: list[Any] = []

    def __call__(self, *arguments: Any) -> Any:
        assert not self.argtypes or len(self.argtypes) == len(arguments), self.name
        self._calls.append((self.name, *arguments))
        return self._answer(*arguments) if callable(self._answer) else self._answer


class RecordedLibrary:
    """All recorded functions; a function that has no answer does not exist."""

    def __init__(self, **answers: Answer) -> None:
        self.calls: list[tuple[Any, ...]] = []
        for name, answer in answers.items():
            setattr(self, name, RecordedFunction(name, answer, self.calls))

    def names(self) -> list[str]:
        """The functions called, in order."""
        return [call[0] for call in self.calls]

    def __call__(self, name: str) -> RecordedLibrary:
        """In place of the function that loads a library by its name."""
        return self


def install(
    monkeypatch: pytest.MonkeyPatch, *modules: Any, error: int = 0, **answers: Answer
) -> RecordedLibrary:
    """Give these answers to the modules; ``error`` is what GetLastError says."""
    library = RecordedLibrary(**answers)
    for module in modules:
        for name in ("windows_library", "macos_library"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, library)
    monkeypatch.setattr(libraries, "windows_library", library)
    monkeypatch.setattr(libraries, "macos_library", library)
    monkeypatch.setattr(libraries, "last_error", lambda: error)
    return library


def fill(value: Any, field: str = "value") -> Callable[..., int]:
    """An answer that writes ``value`` to the last reference among its arguments; returns 1."""

    def answer(*arguments: Any) -> int:
        references = [argument for argument in arguments if hasattr(argument, "_obj")]
        setattr(references[-1]._obj, field, value)
        return 1

    return answer
