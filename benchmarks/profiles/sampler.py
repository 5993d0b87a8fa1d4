"""A sampling profiler of one process: where its processor time goes, by parts of the program.

    python -m benchmarks.profiles.sampler OUT server|client WORDS...

runs `axiom-server` or `axiom-client` with the sampler, and writes the counts at the end.

Every millisecond of processor time the innermost frame of a known part is counted, so that time
in C is that of the Python function that called it.
"""

from __future__ import annotations

import atexit
import json
import signal
import sys
from collections import Counter
from pathlib import Path
from types import FrameType

INTERVAL_SECONDS = 0.001

#: Part of a file's path -> name of the part; the first that fits counts.
PARTS = (
    ("axiom_server/web/slow_clients", "connection limits"),
    ("axiom_server/web/rate_limits", "rate limits"),
    ("axiom_server/decide/rates", "rate limits"),
    ("axiom_server/web/metrics", "metrics"),
    ("prometheus_client", "metrics"),
    ("axiom_server/web/", "decode, encode, dispatch"),
    ("axiom_protocol/result", "result check"),
    ("axiom_protocol/", "protocol: texts, results"),
    ("axiom_server/sync/reports", "reports"),
    ("axiom_server/decide/elapsed", "reports"),
    ("axiom_server/decide/standing", "reports"),
    ("axiom_server/decide/lease", "grants"),
    ("axiom_server/sync/grants", "grants"),
    ("axiom_server/sync/catalogue", "grants"),
    ("axiom_server/sync/", "transaction and batches"),
    ("axiom_server/decide/", "transaction and batches"),
    ("axiom_server/store/", "rows to and from SQL"),
    ("psycopg", "psycopg"),
    ("uvicorn/", "HTTP: uvicorn"),
    ("starlette/", "HTTP: Starlette"),
    ("axiom_client/agent/journal", "journal"),
    ("axiom_client/decide/", "decisions"),
    ("axiom_client/agent/", "loop and effects"),
    ("axiom_client/run/", "pool and launchers"),
    ("axiom_client/control/", "control socket"),
    ("axiom_client/project/", "project: HTTP, metadata"),
    ("axiom_client/host/", "probes"),
    ("axiom_client/", "agent, other"),
    ("asyncio/", "event loop"),
    ("importlib", "imports"),
)


class Sampler:
    """Counts samples by part."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._known: dict[str, str] = {}

    def start(self) -> None:
        """Sample from now on; only the main thread may call this."""
        signal.signal(signal.SIGPROF, self._sample)
        signal.setitimer(signal.ITIMER_PROF, INTERVAL_SECONDS, INTERVAL_SECONDS)

    def _sample(self, _number: int, frame: FrameType | None) -> None:
        while frame is not None:
            part = self._part(frame.f_code.co_filename)
            if part:
                self.counts[part] += 1
                return
            frame = frame.f_back
        self.counts["event loop"] += 1

    def _part(self, file: str) -> str:
        part = self._known.get(file)
        if part is None:
            part = next((name for piece, name in PARTS if piece in file), "")
            self._known[file] = part
        return part


def main(out: Path, program: str, words: list[str]) -> None:
    """Run a program with the sampler."""
    sampler = Sampler()
    atexit.register(lambda: out.write_text(json.dumps(sampler.counts)))
    sys.argv = [f"axiom-{program}", *words]
    if program == "server":
        from axiom_server.cli.app import main as run
    else:
        from axiom_client.cli.app import main as run
    sampler.start()
    run()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
