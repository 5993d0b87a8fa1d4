"""Do two results of the same seed agree? Field by field, with each field's declared tolerance.

Never a cosine or a norm over the whole vector: one large entry would hide a wrong seed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from axiom_protocol.manifest import Field, Manifest
from axiom_protocol.result import Result


def disagreements(manifest: Manifest, a: Result, b: Result, most: int = 5) -> list[str]:
    """What differs by more than its tolerance, at most ``most`` lines; empty when the two agree.

    Both results must have passed the gate of the same manifest. Chaotic fields are not compared,
    but for those that a finding reads and that declare a tolerance.
    """
    found = []
    read = {f.field for f in manifest.findings} | {f.control for f in manifest.findings}
    fields = {n: f for n, f in manifest.result.items() if is_compared(f, n in read)}
    for line in _tables("", fields, a, b):
        found.append(line)
        if len(found) == most:
            break
    return found


def is_compared(field: Field, read_by_finding: bool) -> bool:
    """Whether replication holds this field of two hosts against each other."""
    return not field.chaotic or (read_by_finding and field.rtol + field.atol > 0)


def _tables(path: str, fields: Mapping[str, Field], a: Result, b: Result) -> Iterator[str]:
    for name, field in sorted(fields.items()):
        yield from _values(f"{path}{name}", field, a[name], b[name])


def _values(path: str, field: Field, a: Any, b: Any) -> Iterator[str]:
    if isinstance(a, list):
        if len(a) != len(b):
            yield f"{path}: {len(a)} items against {len(b)}"
            return
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            yield from _values(f"{path}[{i}]", field, x, y)
    elif isinstance(a, dict):
        inner = {n: f for n, f in field.fields.items() if is_compared(f, False)}
        yield from _tables(f"{path}.", inner, a, b)
    elif abs(a - b) > field.atol + field.rtol * max(abs(a), abs(b)):
        yield f"{path}: {a!r} against {b!r}"
