"""`GET /metrics`: metrics of a serving process and of the project, for Prometheus."""

from __future__ import annotations

import math
import time
from collections import Counter as Counts

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from axiom_protocol.messages import SyncAnswer, SyncRequest
from axiom_server.store import overview
from axiom_server.store.database import Connection

#: Seconds, from a sync on an idle server to one that waits for the disk.
BUCKETS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
#: How long totals are kept: counting them reads whole tables, and anybody who reaches the port can
#: request them.
TOTALS_SECONDS = 5.0


class Metrics:
    """Counters of one process, and gauges read from the database on request."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._seconds = Histogram(
            "axiom_sync_seconds", "Time of one sync", buckets=BUCKETS, registry=self._registry
        )
        self._grants = Counter("axiom_grants", "Tasks leased", registry=self._registry)
        self._reports = Counter(
            "axiom_reports", "Reports acknowledged", ["outcome"], registry=self._registry
        )
        self._refusals = Counter(
            "axiom_refusals", "Reports that earn nothing", registry=self._registry
        )
        self._counted_at = -math.inf
        self._totals = Gauge(
            "axiom_project", "Totals of the project", ["what"], registry=self._registry
        )

    def count_sync(self, request: SyncRequest, answer: SyncAnswer, seconds: float) -> None:
        """Count one sync."""
        self._seconds.observe(seconds)
        self._grants.inc(len(answer.grants))
        for outcome, count in Counts(report.outcome for report in request.reports).items():
            self._reports.labels(outcome).inc(count)
        self._refusals.inc(sum(1 for a in answer.acknowledged if a.refusal))

    async def text(self, connection: Connection) -> bytes:
        """All metrics in Prometheus's text format; totals are counted every TOTALS_SECONDS."""
        now = time.monotonic()
        if now - self._counted_at >= TOTALS_SECONDS:
            self._counted_at = now
            for what, value in (await overview.totals(connection))["totals"].items():
                self._totals.labels(what).set(value)
        return generate_latest(self._registry)
