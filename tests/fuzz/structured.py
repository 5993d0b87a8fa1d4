"""Slightly wrong inputs, which hypothesis generates from the words and shapes of each format."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from tests.fuzz.targets import MANIFEST_TEXT

NUMBERS = st.one_of(
    st.integers(-10, 10),
    st.integers(),
    st.sampled_from([2**53, 2**53 + 1, 2**63, 2**64, 10**400, -(10**400), 1e300, 1e308, -0.0]),
    st.floats(allow_nan=False, allow_infinity=False),
)
LEAVES = st.one_of(
    NUMBERS, st.none(), st.booleans(), st.text(max_size=8), st.sampled_from(["a", "b", "cpu"])
)

RESULT_KEYS = ["valid", "configs_done", "loss", "curve", "table", "noise", "runs", "lr", "losses"]
PARAMETER_KEYS = ["count", "rate", "free", "name", "text", "on", "many", "other"]


def anything(keys: list[str]) -> SearchStrategy[Any]:
    """JSON of any shape, whose keys are mostly the format's own."""
    names = st.one_of(st.sampled_from(keys), st.text(max_size=4))
    return st.recursive(
        LEAVES,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=6),
        max_leaves=12,
    )


def mostly(right: SearchStrategy[Any], wrong: SearchStrategy[Any]) -> SearchStrategy[Any]:
    """The right value three times in four."""
    return st.one_of(right, right, right, wrong)


def table(fields: dict[str, SearchStrategy[Any]], keys: list[str]) -> SearchStrategy[Any]:
    """A table with these fields, each now and then wrong or missing."""
    wrong = anything(keys)
    return st.fixed_dictionaries(
        {}, optional={name: mostly(right, wrong) for name, right in fields.items()}
    ) | st.fixed_dictionaries({name: mostly(right, wrong) for name, right in fields.items()})


SMALL = st.floats(0, 100, allow_nan=False)
RESULTS = table(
    {
        "valid": st.integers(0, 1),
        "configs_done": st.integers(0, 9),
        "loss": SMALL,
        "curve": st.lists(SMALL, max_size=4),
        "table": st.lists(st.lists(st.lists(SMALL, max_size=3), max_size=3), max_size=3),
        "noise": NUMBERS,
        "runs": st.lists(
            table(
                {
                    "lr": SMALL,
                    "losses": st.lists(SMALL, max_size=3),
                    "inner": st.lists(table({"x": st.integers(0, 9)}, RESULT_KEYS), max_size=2),
                },
                RESULT_KEYS,
            ),
            max_size=3,
        ),
    },
    RESULT_KEYS,
)
PARAMETERS = table(
    {
        "count": st.integers(1, 9),
        "rate": st.floats(0, 1),
        "free": NUMBERS,
        "name": st.sampled_from("ab"),
        "text": st.text(max_size=5),
        "on": st.booleans(),
        "many": st.lists(st.integers(0, 9), min_size=1, max_size=3),
    },
    PARAMETER_KEYS,
)
GRANT_KEYS = ["task_id", "experiment", "version", "sha256", "parameters", "seed", "budget_seconds"]
GRANTS = table(
    {
        "task_id": st.integers(1, 99),
        "experiment": st.just("fuzzed"),
        "version": st.just("1.0.0"),
        "sha256": st.just("a" * 64),
        "parameters": PARAMETERS,
        "seed": st.integers(0, 2**53),
        "budget_seconds": SMALL,
        "lease_seconds": SMALL,
    },
    GRANT_KEYS,
)
REPORT = table(
    {
        "task_id": st.integers(1, 99),
        "outcome": st.sampled_from(["success", "failed", "timed_out", "lost"]),
        "elapsed_seconds": SMALL,
        "cpu_seconds": SMALL,
        "result": RESULTS,
        "message": st.text(max_size=20),
    },
    ["task_id", "outcome", "result", "message"],
)
FACTS = {
    "name": st.text(max_size=8),
    "os": st.just("Linux"),
    "architecture": st.just("x86_64"),
    "cpu_cores": st.integers(1, 256),
    "memory_bytes": st.integers(0, 2**60),
    "disk_free_bytes": st.integers(0, 2**60),
    "environments": st.lists(st.sampled_from(["numpy", "torch"]), max_size=2),
}
SYNC_KEYS = ["request_id", "host", "capacity", "in_hand", "reports", "draining", "gpus"]
SYNCS = table(
    {
        "request_id": st.text("0123456789abcdef", min_size=8, max_size=16),
        "protocol_version": st.integers(0, 2),
        "host": table(FACTS, SYNC_KEYS),
        "capacity": table(
            {"cpu_slots_free": st.integers(0, 9), "buffer_seconds": SMALL}, SYNC_KEYS
        ),
        "in_hand": st.lists(
            table(
                {"task_id": st.integers(1, 9), "state": st.sampled_from(["queued", "running"])},
                SYNC_KEYS,
            ),
            max_size=3,
        ),
        "reports": st.lists(REPORT, max_size=3),
    },
    SYNC_KEYS,
)

_LINES = MANIFEST_TEXT.strip().splitlines()
_WORDS = [
    "nan", "inf", "-inf", "1e400", "9" * 5000, "-1", "0", "1.5", "true", "1979-05-27", "07:32:00",
    '""', '"a"', '"1.0.0"', '"1.0.0\\n"', '"x"', '"\u0661"', "[]", "[[[]]]", "{}", '["requests"]',
    "[tool.axiom]", "[tool.axiom.parameters]", "# ///", "# /// script", "#", "min", "default",
]  # fmt: skip


@st.composite
def manifests(draw: st.DrawFn) -> bytes:
    """The manifest with lines lost, doubled, moved, or given another value."""
    lines = list(_LINES)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(lines) - 1))
        what = draw(st.integers(0, 4))
        if what == 0:
            del lines[place]
        elif what == 1:
            lines.insert(place, lines[draw(st.integers(0, len(lines) - 1))])
        elif what == 2:
            lines.insert(place, f"# {draw(st.sampled_from(_WORDS))}")
        else:
            head, sign, tail = lines[place].partition("=")
            value = draw(st.one_of(st.sampled_from(_WORDS), st.text(max_size=6)))
            swap = what == 3 or "," not in tail
            lines[place] = head + sign + (f" {value}" if swap else tail.replace("1", value, 1))
        if not lines:
            break
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def encoded(values: SearchStrategy[Any]) -> SearchStrategy[bytes]:
    """As the JSON that would be sent."""
    return values.map(lambda value: json.dumps(value).encode())


BITS = [
    b"[", b"]", b"{", b"}", b'"', b",", b":", b"=", b"\n", b"# ///", b"-", b".", b"e9", b"\\u",
    b"\0", b"\xff", b"null", b"true", b"nan", b"1e400", b"9" * 400, b"[" * 200,
]  # fmt: skip


def variants(data: bytes, seed: int, count: int) -> Iterator[bytes]:
    """``data`` itself and ``count - 1`` broken copies, each broken in one to three places."""
    yield data
    rng = random.Random(seed)
    for _ in range(count - 1):
        broken = bytearray(data)
        for _ in range(rng.randint(1, 3)):
            start = rng.randint(0, len(broken))
            end = start + rng.choice((0, 0, 1, 1, 4, 40))
            other = rng.randint(0, len(broken))
            piece = rng.choice(
                (rng.choice(BITS), rng.randbytes(1), bytes(broken[other:][:40]), b"")
            )
            broken[start:end] = piece
        yield bytes(broken)


ANSWERS = table(
    {
        "request_id": st.text("0123456789abcdef", max_size=16),
        "protocol_version": st.integers(0, 2),
        "grants": st.lists(
            table(
                {
                    "task_id": NUMBERS,
                    "experiment": st.just("walk"),
                    "version": st.just("1.0.0"),
                    "sha256": st.just("a" * 64),
                    "parameters": st.just({}),
                    "seed": st.integers(0, 2**53),
                    "budget_seconds": SMALL,
                    "device": st.sampled_from(["cpu", "gpu"]),
                    "lease_seconds": SMALL,
                },
                GRANT_KEYS,
            ),
            max_size=4,
        ),
        "acknowledged": st.lists(table({"task_id": NUMBERS}, ["task_id"]), max_size=3),
        "cancelled": st.lists(NUMBERS, max_size=3),
        "next_sync_seconds": NUMBERS,
        "no_work_reason": st.text(max_size=5),
        "notices": st.lists(st.text(max_size=5), max_size=3),
        "credit": table({"host_total": NUMBERS, "pending_results": NUMBERS}, ["host_total"]),
    },
    ["grants", "cancelled", "credit", "notices"],
)

STRUCTURED: dict[str, SearchStrategy[bytes]] = {
    "sync": encoded(SYNCS),
    "manifest": manifests(),
    "gate": encoded(RESULTS),
    "grant": encoded(GRANTS),
    "answer": encoded(ANSWERS),
}
