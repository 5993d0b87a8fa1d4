"""Record the traffic between agents and servers: acknowledgements, cancellations, sync rates."""

from __future__ import annotations

import gzip
import threading
import time
from collections import defaultdict, deque
from dataclasses import dataclass, field
from typing import Any

import msgspec

RATE_SECONDS = 20.0
RATE_MAX = 100  # syncs of one agent in RATE_SECONDS: it spaces them by a quarter of a second
CANCELS_MAX = 5  # answers in a row that cancel a task, before it must be gone ...
CANCEL_SECONDS = 12.0  # ... and so much time, twice the grace of a stop


@dataclass(frozen=True)
class Acknowledged:
    """A success that a server has taken without refusing it. ``at``: seconds since 1970."""

    agent: str
    task_id: int
    at: float


@dataclass
class _Cancelled:
    first_at: float
    answers: int = 1


@dataclass
class Traffic:
    """Filled by the proxy's thread; read at the end."""

    acknowledged: dict[int, Acknowledged] = field(default_factory=dict)
    breaches: list[str] = field(default_factory=list)
    syncs: int = 0
    statuses: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    _cancelled: dict[tuple[str, int], _Cancelled] = field(default_factory=dict)
    _times: dict[str, deque[float]] = field(default_factory=lambda: defaultdict(deque))
    _seen: dict[str, str] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def sent(self, agent: str, request: bytes) -> None:
        """Record a request of the agent to a server."""
        sync = _sync_of(request)
        if sync is None:
            return
        with self._lock:
            self.syncs += 1
            if self._seen.get(agent) == sync["request_id"]:
                return  # the proxy's own doing, or an answer that was lost
            self._seen[agent] = sync["request_id"]
            self._count(agent)
            self._check_in_hand(agent, sync)

    def answered(self, agent: str, request: bytes, answer: bytes) -> None:
        """Record a server's answer, whether or not it will reach the agent."""
        with self._lock:
            self.statuses[answer[9:12].decode("latin1")] += 1
        reply, sync = _body(answer), _sync_of(request)
        if sync is None or reply is None or not answer.startswith(b"HTTP/1.1 200"):
            return
        good = {r["task_id"] for r in sync.get("reports", ()) if r["outcome"] == "success"}
        with self._lock:
            for ack in reply.get("acknowledged", ()):
                task_id = ack["task_id"]
                if task_id in good and not ack.get("refusal"):
                    self.acknowledged.setdefault(task_id, Acknowledged(agent, task_id, time.time()))

    def delivered(self, agent: str, request: bytes, answer: bytes) -> None:
        """Record an answer that was sent to the agent completely."""
        reply = _body(answer) if _sync_of(request) is not None else None
        now = time.monotonic()
        with self._lock:
            for task_id in (reply or {}).get("cancelled", ()):
                known = self._cancelled.setdefault((agent, task_id), _Cancelled(now, 0))
                known.answers += 1

    def _count(self, agent: str) -> None:
        now, times = time.monotonic(), self._times[agent]
        times.append(now)
        while times[0] < now - RATE_SECONDS:
            times.popleft()
        if len(times) > RATE_MAX:
            self.breaches.append(f"{agent} made {len(times)} syncs in {RATE_SECONDS:.0f} s")
            times.clear()

    def _check_in_hand(self, agent: str, sync: dict[str, Any]) -> None:
        now = time.monotonic()
        for task in sync.get("in_hand", ()):
            known = self._cancelled.get((agent, task["task_id"]))
            if known is None or task["state"] == "ended":
                continue
            if known.answers >= CANCELS_MAX and now - known.first_at > CANCEL_SECONDS:
                del self._cancelled[agent, task["task_id"]]
                self.breaches.append(
                    f"{agent} was told {known.answers} times to end task {task['task_id']} "
                    f"and has it still: {task['state']}"
                )


def _sync_of(request: bytes) -> dict[str, Any] | None:
    return _body(request) if request.startswith(b"POST /api/v1/sync") else None


def _body(message: bytes) -> dict[str, Any] | None:
    head, _, body = message.partition(b"\r\n\r\n")
    try:
        if b"content-encoding: gzip" in head.lower():
            body = gzip.decompress(body)
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, OSError, EOFError):
        return None
    return found if isinstance(found, dict) else None
