"""The threat model names its tests; each of them exists."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs" / "security.md"


def test_every_test_that_the_page_names_exists() -> None:
    defined = "\n".join(path.read_text() for path in TESTS.rglob("test_*.py"))
    named = re.findall(r"`([\w/]*\.py)?(?:::)?(test_\w+)?`", PAGE.read_text())
    files = {file for file, _ in named if file}
    tests = {test for _, test in named if test}
    assert len(files) >= 5
    assert len(tests) >= 25
    roots = (TESTS, TESTS.parent)  # modules of the packages are named by their whole path
    assert [f for f in sorted(files) if not any((root / f).exists() for root in roots)] == []
    assert [test for test in sorted(tests) if f"def {test}(" not in defined] == []
