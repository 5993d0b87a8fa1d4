"""Compares two results for one seed, field by field, with each field's declared tolerance.

A cosine or norm over the whole vector is not sufficient: one large entry would hide a wrong seed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from axiom_protocol.manifest import Field, Manifest
from axiom_protocol.result import Result


def disagreements(manifest: Manifest, a: Result, b: Result, limit: int = 5) -> list[str]:
    """Differences beyond the tolerance, at most ``limit`` lines; empty when the results agree.

    Both results must have passed ``gate`` with this manifest. Chaotic fields are not compared,
    except those that a finding reads and that declare a tolerance.
    """
    found = []
    read = {f.field for f in manifest.findings} | {f.control for f in manifest.findings}
    fields = {n: f for n, f in manifest.result.items() if is_compared(f, n in read)}
    for line in _compare_tables("", fields, a, b):
        found.append(line)
        if len(found) == limit:
            break
    return found


def is_compared(field: Field, read_by_finding: bool) -> bool:
    """Whether replication compares this field between hosts."""
    return not field.chaotic or (read_by_finding and field.rtol + field.atol > 0)


def _compare_tables(path: str, fields: Mapping[str, Field], a: Result, b: Result) -> Iterator[str]:
    for name, field in sorted(fields.items()):
        yield from _compare_values(f"{path}{name}", field, a[name], b[name])


def _compare_values(path: str, field: Field, a: Any, b: Any) -> Iterator[str]:
    if isinstance(a, list):
        if len(a) != len(b):
            yield f"{path}: {len(a)} items against {len(b)}"
            return
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            yield from _compare_values(f"{path}[{i}]", field, x, y)
    elif isinstance(a, dict):
        inner = {n: f for n, f in field.fields.items() if is_compared(f, False)}
        yield from _compare_tables(f"{path}.", inner, a, b)
    elif abs(a - b) > field.atol + field.rtol * max(abs(a), abs(b)):
        yield f"{path}: {a!r} against {b!r}"
