"""Checks a result against its experiment's schema: numeric, finite, complete and within bounds.

The agent checks before it reports, the server before it accepts. An accepted result contains only
finite numbers in the declared shape, so no text of a volunteer can get into one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec

from axiom_protocol.manifest import INTEGER_MAX, NUMBER_MAX, Field, Manifest

RESULT_BYTES_MAX = (
    4 * 1024 * 1024
)  # encoded JSON; the largest result of the library is under 200 kB
NESTING_MAX = 16  # more than any schema allows (3 list levels in records in records)
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))

Result = dict[str, Any]


class ResultRefused(ValueError):
    """The result does not fit the schema; the message names the field and the reason."""


def decode_result(raw: bytes) -> object:
    """Decode the JSON that a task wrote, within limits of size and depth. Raises ResultRefused."""
    if len(raw) > RESULT_BYTES_MAX:
        raise ResultRefused(
            f"the result is {len(raw)} bytes; at most {RESULT_BYTES_MAX} are accepted"
        )
    depth = deepest = 0
    for byte in raw.translate(None, _NOT_BRACKETS):
        if byte in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif byte in b"]}":
            depth -= 1
    if deepest > NESTING_MAX:
        raise ResultRefused(
            f"the result is nested {deepest} deep; at most {NESTING_MAX} is accepted"
        )
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise ResultRefused(f"the result is not JSON: {error}") from None


def gate(manifest: Manifest, value: object) -> Result:
    """Return ``value`` as a checked result, or raise ResultRefused.

    Refused are: a missing or undeclared field; a text, null, bool, NaN or infinity where a number
    belongs; a number out of bounds; a list too long or of the wrong depth.
    """
    return _table("result", manifest.result, value)


def _table(path: str, fields: Mapping[str, Field], value: object) -> Result:
    if not isinstance(value, dict):
        raise ResultRefused(f"{path}: must be a table, not {_kind(value)}")
    if value.keys() != fields.keys():
        if missing := sorted(fields.keys() - value.keys()):
            raise ResultRefused(f"{path}: the field {missing[0]!r} is missing")
        extra = sorted(str(key)[:64] for key in value.keys() - fields.keys())
        raise ResultRefused(f"{path}: the field {extra[0]!r} is not declared")
    return {name: _field(f"{path}.{name}", field, value[name]) for name, field in fields.items()}


def _field(path: str, field: Field, value: object, dims: int | None = None) -> Any:
    if field.kind == "records":
        items = _items(path, field, value)
        return [_table(f"{path}[{i}]", field.fields, item) for i, item in enumerate(items)]
    dims = field.dims if dims is None else dims
    if dims:
        items = _items(path, field, value)
        if dims == 1 and _all_fit(field, items):
            return list(items)
        return [_field(f"{path}[{i}]", field, item, dims - 1) for i, item in enumerate(items)]
    return _number(path, field, value)


def _all_fit(field: Field, items: list[Any]) -> bool:
    """Whether every item is a number that `_number` would return as it is.

    A curve has thousands of numbers: to name the place of each would take most of the check.
    """
    if field.kind != "number" or not items or not set(map(type, items)) <= {int, float}:
        return False
    low = -NUMBER_MAX if field.min is None else max(field.min, -NUMBER_MAX)
    high = NUMBER_MAX if field.max is None else min(field.max, NUMBER_MAX)
    # With a NaN among them, min and max may be wrong, but not so that isfinite gets a huge integer.
    return min(items) >= low and max(items) <= high and all(map(math.isfinite, items))


def _items(path: str, field: Field, value: object) -> list[Any]:
    if not isinstance(value, list):
        raise ResultRefused(f"{path}: must be a list, not {_kind(value)}")
    if len(value) > field.max_items:
        raise ResultRefused(f"{path}: {len(value)} items; at most {field.max_items} are declared")
    return value


def _number(path: str, field: Field, value: object) -> int | float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ResultRefused(f"{path}: must be a number, not {_kind(value)}")
    # In this order: isfinite(10**400) raises.
    if abs(value) > NUMBER_MAX or not math.isfinite(value):
        raise ResultRefused(f"{path}: must be finite; report divergence as a flag")
    if field.kind in ("integer", "flag"):
        if value != int(value) or abs(value) > INTEGER_MAX:
            raise ResultRefused(f"{path}: must be a whole number, not {value!r}")
        value = int(value)
        if field.kind == "flag" and value not in (0, 1):
            raise ResultRefused(f"{path}: a flag must be 0 or 1, not {value}")
    if field.min is not None and value < field.min:
        raise ResultRefused(f"{path}: {value!r} is below its bound {field.min!r}")
    if field.max is not None and value > field.max:
        raise ResultRefused(f"{path}: {value!r} is above its bound {field.max!r}")
    return value


def _kind(value: object) -> str:
    names: dict[type, str] = {
        str: "a text", bool: "true or false", dict: "a table", list: "a list", type(None): "null",
        int: "a number", float: "a number",
    }  # fmt: skip
    return names.get(type(value), type(value).__name__)
