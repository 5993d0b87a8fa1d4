"""Do two results of the same seed agree? Field by field, with each field's declared tolerance.

Never a cosine or a norm over the whole vector: one large entry would hide a wrong seed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from axiom_protocol.manifest import Field, Manifest
from axiom_protocol.result import Result


def disagreements(manifest: Manifest, a: Result, b: Result, limit: int = 5) -> list[str]:
    """What differs by more than its tolerance, at most ``most`` lines; empty when the two agree.

    Both results must have passed the gate of the same manifest. Chaotic fields are not compared.
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
