"""Drives one system through all its tasks, and measures the processes that belong to it."""

from __future__ import annotations

import contextlib
import os
import selectors
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import psutil

from benchmarks import load
from benchmarks.peers.driver import Command, Outcome, Reply
from benchmarks.peers.tasks import EVENING_TASKS, Span
from benchmarks.slot_gap import busy_share, gaps

START_SECONDS_MAX = 120.0
SETTLE_SECONDS = 8.0  # after the host's part was started
IDLE_SECONDS = 10.0
SAMPLE_SECONDS = 0.25
NOOP_SECONDS, NOOP_MAX = 5.0, 400  # about the length of a round of no-ops, and their number
EVENING_SECONDS = 15.0  # about the time for the evening; slower systems do a part of it
SLOW_PER_SECOND = 5.0  # a system that starts fewer tasks gets fewer torch tasks
RUN_SECONDS_MAX = 100.0  # a run that takes longer is given up, and with it the system


class GivenUp(Exception):
    """A system did not answer in time, or ended."""


@dataclass(kw_only=True)
class Figures:
    """What was measured of one system; lists hold a value for each round.

    first_seconds       from the start of the host's part to the submitter's first result
    noop_per_second     no-ops from the first one's beginning to the last one's end
    gap_p50_ms          from a task's last line to the next one's first line on the same slot
    gap_p99_ms
    busy_share          of the slots' time while five-second tasks were waiting
    torch_per_second    training tasks
    evening             (tasks done, seconds from the first one's beginning to the last one's end)
    idle_mib            PSS of the host's part without work, before its first task
    idle_cpu            its processor seconds in a minute
    server_mib          PSS of what is not the host's part, at the same time
    busy_mib            PSS of the host's part while each slot holds a trained torch task
    task_mib            memory that is freed when one of these ends (USS), of its own process
    recorded_ms         from the last task's end until the submitter had all results
    credited_ms         ... until they were credited
    trouble             why the rest was not measured
    """

    first_seconds: list[float] = field(default_factory=list)
    noop_per_second: list[float] = field(default_factory=list)
    gap_p50_ms: list[float] = field(default_factory=list)
    gap_p99_ms: list[float] = field(default_factory=list)
    busy_share: list[float] = field(default_factory=list)
    torch_per_second: list[float] = field(default_factory=list)
    evening: tuple[int, float] | None = None
    idle_mib: list[float] = field(default_factory=list)
    idle_cpu: list[float] = field(default_factory=list)
    server_mib: list[float] = field(default_factory=list)
    busy_mib: list[float] = field(default_factory=list)
    task_mib: list[float] = field(default_factory=list)
    recorded_ms: list[float] = field(default_factory=list)
    credited_ms: list[float] = field(default_factory=list)
    trouble: str = ""


class System:
    """One system's driver in a process of its own."""

    def __init__(self, name: str, folder: Path, slots: int, patience: float) -> None:
        self._patience = patience
        self._log = (folder / "log").open("wb")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.peers.driver", name, str(folder), str(slots)],
            env={**os.environ, "PYTHONPATH": str(load.ROOT)},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log,
        )  # fmt: skip
        self.server_pids: list[int] = []

    def command(self, seconds: float, **words: object) -> Reply:
        """Have a command carried out. Raises GivenUp."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            command = msgspec.convert(words, Command)
            self._process.stdin.write(msgspec.json.encode(command) + b"\n")
            self._process.stdin.flush()
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            if not selector.select(seconds * self._patience):
                raise GivenUp(f"{_words(words)} took over {seconds * self._patience:.0f} s")
        line = self._process.stdout.readline()
        if not line:
            raise GivenUp(f"{_words(words)} failed: {self._last_words()}")
        return msgspec.json.decode(line, type=Reply)

    def run(self, work: str, count: int, *, fresh: bool = False) -> tuple[Outcome, float]:
        """Run tasks; the outcome, and when the host's part was started. Raises GivenUp."""
        reply = self.command(RUN_SECONDS_MAX, do="run", work=work, count=count, fresh=fresh)
        assert reply.outcome is not None
        outcome = reply.outcome
        if len(outcome.spans) < count or len(outcome.received) < count:
            raise GivenUp(
                f"{work}: {len(outcome.spans)} of {count} ran, {len(outcome.received)} received"
            )
        return outcome, reply.started

    def processes(self) -> tuple[list[psutil.Process], list[psutil.Process]]:
        """The processes of the host's part, and those of the rest."""
        server: dict[int, psutil.Process] = {}
        for pid in self.server_pids:
            with contextlib.suppress(psutil.NoSuchProcess):
                root = psutil.Process(pid)
                server |= {p.pid: p for p in [root, *root.children(recursive=True)]}
        everything = psutil.Process(self._process.pid).children(recursive=True)
        return [p for p in everything if p.pid not in server], list(server.values())

    def _last_words(self) -> str:
        lines = Path(self._log.name).read_text(errors="replace").strip().splitlines()
        return lines[-1][:200] if lines else "no message"

    def end(self) -> None:
        """End the driver, and everything below it."""
        assert self._process.stdin is not None
        below = psutil.Process(self._process.pid).children(recursive=True)
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for process in below:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._log.close()


def _words(words: dict[str, object]) -> str:
    return " ".join(str(word) for word in words.values() if word)


def measure(name: str, folder: Path, slots: int, rounds: int, patience: float) -> Figures:
    """All figures of one system; what it does not manage in time is missing."""
    figures = Figures()
    system = System(name, folder, slots, patience)
    try:
        reply = system.command(START_SECONDS_MAX, do="start_server")
        system.server_pids = reply.server_pids
        _measure_idle(system, figures)
        rate = _measure_noop(system, figures, slots, rounds)
        _measure_long(system, figures, slots, rate)
        _measure_memory(system, figures, slots)
        _measure_evening(system, figures, rate)
    except GivenUp as problem:
        figures.trouble = str(problem)
    finally:
        system.end()
    return figures


def _measure_idle(system: System, figures: Figures) -> None:
    system.command(START_SECONDS_MAX, do="start_host")
    time.sleep(SETTLE_SECONDS)
    host, server = system.processes()
    before, began = _cpu_seconds(host), time.monotonic()
    time.sleep(IDLE_SECONDS)
    used, seconds = _cpu_seconds(host) - before, time.monotonic() - began
    figures.idle_cpu.append(60 * used / seconds)
    figures.idle_mib.append(sum(map(_pss_mib, host)))
    figures.server_mib.append(sum(map(_pss_mib, server)))
    system.command(START_SECONDS_MAX, do="stop_host")


def _measure_noop(system: System, figures: Figures, slots: int, rounds: int) -> float:
    """Rounds of no-ops; returns tasks a second, by which further numbers are chosen."""
    outcome, started = system.run("noop", 4 * slots, fresh=True)
    figures.first_seconds.append(outcome.received[0] - started)
    rate = _per_second(outcome.spans)
    for _ in range(rounds):
        outcome, _ = system.run("noop", _clamp(rate * NOOP_SECONDS, 4 * slots, NOOP_MAX))
        found = gaps([span[:2] for span in outcome.spans], slots)
        figures.noop_per_second.append(_per_second(outcome.spans))
        figures.gap_p50_ms.append(1000 * statistics.median(found))
        figures.gap_p99_ms.append(1000 * found[len(found) * 99 // 100])
        _add_delays(figures, outcome)
    return statistics.median(figures.noop_per_second)


def _measure_long(system: System, figures: Figures, slots: int, rate: float) -> None:
    outcome, _ = system.run("five_seconds", 3 * slots)
    figures.busy_share.append(busy_share([span[:2] for span in outcome.spans], slots))
    _add_delays(figures, outcome)
    outcome, _ = system.run("torch_training", (16 if rate > SLOW_PER_SECOND else 4) * slots)
    figures.torch_per_second.append(_per_second(outcome.spans))
    _add_delays(figures, outcome)


def _measure_evening(system: System, figures: Figures, rate: float) -> None:
    outcome, _ = system.run("evening", _clamp(rate * EVENING_SECONDS, 10, EVENING_TASKS))
    figures.evening = len(outcome.spans), _seconds(outcome.spans)
    _add_delays(figures, outcome)


def _measure_memory(system: System, figures: Figures, slots: int) -> None:
    with _sampling(system) as samples:
        outcome, _ = system.run("torch_held", slots)
    figures.busy_mib.append(max(sum(pss for pss, _ in sample.values()) for sample in samples))
    pids = {span.pid for span in outcome.spans}
    own = [max(s[pid][1] for s in samples if pid in s) for pid in pids if _seen(samples, pid)]
    if own:
        figures.task_mib.append(statistics.median(own))


def _seen(samples: Sequence[dict[int, tuple[float, float]]], pid: int) -> bool:
    return any(pid in sample for sample in samples)


@contextlib.contextmanager
def _sampling(system: System) -> Iterator[list[dict[int, tuple[float, float]]]]:
    """Samples (PSS, USS) in MiB of every process of the host's part, from a thread."""
    samples: list[dict[int, tuple[float, float]]] = [{}]
    stop = threading.Event()

    def sample() -> None:
        while not stop.wait(SAMPLE_SECONDS):
            host, _ = system.processes()
            samples.append({p.pid: (_pss_mib(p), _uss_mib(p)) for p in host})

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield samples
    finally:
        stop.set()
        thread.join()


def _add_delays(figures: Figures, outcome: Outcome) -> None:
    last = max(span.ended for span in outcome.spans)
    figures.recorded_ms.append(1000 * (outcome.received[-1] - last))
    if outcome.credited is not None:
        figures.credited_ms.append(1000 * (outcome.credited - last))


def _seconds(spans: Sequence[Span]) -> float:
    return max(span.ended for span in spans) - spans[0].began


def _per_second(spans: Sequence[Span]) -> float:
    return len(spans) / _seconds(spans)


def _clamp(value: float, low: int, high: int) -> int:
    return min(max(int(value), low), high)


def _cpu_seconds(processes: Sequence[psutil.Process]) -> float:
    total = 0.0
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            total += sum(process.cpu_times()[:2])
    return total


def _pss_mib(process: psutil.Process) -> float:
    return _smaps(process.pid).get("Pss:", 0.0)


def _uss_mib(process: psutil.Process) -> float:
    found = _smaps(process.pid)
    return found.get("Private_Clean:", 0.0) + found.get("Private_Dirty:", 0.0)


def _smaps(pid: int) -> dict[str, float]:
    """The sums of a process's mappings in MiB; empty when it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    except OSError:
        return {}
    return {line.split()[0]: int(line.split()[1]) / 1024 for line in lines}
