"""Compare two results for one seed, field by field, with each field's declared tolerance.

A cosine or norm over the whole vector would not do: one large entry would hide a wrong seed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from axiom_protocol.manifest import Field, Manifest
from axiom_protocol.result import Result


def disagreements(manifest: Manifest, a: Result, b: Result, limit: int = 5) -> list[str]:
    """Differences beyond the tolerance, at most ``limit`` lines; empty when the results agree.

    Both results must have passed ``gate`` with this manifest. Chaotic fields are not compared.
    """
    found = []
    for line in _compare_tables("", manifest.result, a, b):
        found.append(line)
        if len(found) == limit:
            break
    return found


def _compare_tables(path: str, fields: Mapping[str, Field], a: Result, b: Result) -> Iterator[str]:
    for name, field in sorted(fields.items()):
        if not field.chaotic:
            yield from _compare_values(f"{path}{name}", field, a[name], b[name])


def _compare_values(path: str, field: Field, a: Any, b: Any) -> Iterator[str]:
    if isinstance(a, list):
        if len(a) != len(b):
            yield f"{path}: {len(a)} items against {len(b)}"
            return
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            yield from _compare_values(f"{path}[{i}]", field, x, y)
    elif isinstance(a, dict):
        yield from _compare_tables(f"{path}.", field.fields, a, b)
    elif abs(a - b) > field.atol + field.rtol * max(abs(a), abs(b)):
        yield f"{path}: {a!r} against {b!r}"
