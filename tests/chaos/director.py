"""Inject faults in an order drawn from a seed, deploy work, and repair everything at the end."""

from __future__ import annotations

import heapq
import itertools
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field

import psutil
import psycopg

from tests.chaos import disk, people_faults, rare_faults
from tests.chaos.experiments import PAUSES, POISON
from tests.chaos.faults import FAULTS, Heal, Run
from tests.chaos.proxy import LinkFault
from tests.chaos.site import Site

assert people_faults, rare_faults  # imported for the faults that they register

GAP_SECONDS = 2.6  # between two faults, on average
WAITING_MIN = 12  # workunits in the queue, below which more are deployed
QUIET_SECONDS = 12.0  # before the end, in which nothing more is deployed
LOOK_SECONDS = 1.0  # between two looks at the database in mid-run
LEASED_TWICE = """
SELECT workunit_id, purpose FROM tasks WHERE state = 'leased' AND workunit_id IS NOT NULL
GROUP BY workunit_id, purpose HAVING count(*) > 1"""


@dataclass
class Director:
    """Runs one site under faults for some time."""

    site: Site
    seed: int
    without: Collection[str] = ()
    counts: Counter[str] = field(default_factory=Counter)
    run: Run = field(init=False)
    _heals: list[tuple[float, int, str, Callable[[], None]]] = field(default_factory=list)
    _numbers: itertools.count[int] = field(default_factory=itertools.count)
    _looked_at: float = 0.0
    _deploys_until: float = 0.0

    def __post_init__(self) -> None:
        self.run = Run(self.site, random.Random(self.seed))

    def direct(self, seconds: float) -> None:
        """Inject faults for this time. When this returns, some of them are not repaired yet."""
        until = time.monotonic() + seconds
        self._deploys_until, next_at = until - QUIET_SECONDS, time.monotonic()
        self.run.staff(lambda: self._deploy(POISON, 1))
        while (now := time.monotonic()) < until:
            self._heal_due(now)
            self.site.keep_services()
            self._look(now)
            if now >= next_at:
                self._happen()
                next_at = time.monotonic() + self.run.rng.expovariate(1 / GAP_SECONDS)
            time.sleep(0.05)

    def _happen(self) -> None:
        """Inject one fault, of a kind that is possible now."""
        kinds = sorted(set(FAULTS) - set(self.without))
        for name in self.run.rng.sample(kinds, len(kinds)):
            with suppress(psutil.NoSuchProcess):
                if (heal := FAULTS[name](self.run)) is not None:
                    self.counts[name] += 1
                    print(f"{time.strftime('%H:%M:%S')} {name}", flush=True)
                    self._later(name, heal)
                    return

    def _later(self, name: str, heal: Heal) -> None:
        at = time.monotonic() + heal.after
        heapq.heappush(self._heals, (at, next(self._numbers), name, heal.do))

    def _heal_due(self, now: float) -> None:
        while self._heals and self._heals[0][0] <= now:
            heapq.heappop(self._heals)[3]()

    # --- work -------------------------------------------------------------------------------------

    def _look(self, now: float) -> None:
        """Deploy more work if needed; check that nothing is leased twice."""
        if now < self._looked_at + LOOK_SECONDS or self.site.servers_stand_still:
            return
        self._looked_at = now
        try:
            waiting = self.site.value("SELECT count(*) FROM queue", seconds=0)
            twice = self.site.rows(LEASED_TWICE, seconds=0)
        except psycopg.Error:
            return  # it is down: that is what this is for
        if twice:
            self.run.breaches.append(f"leased twice at once: {twice}")
        if waiting < WAITING_MIN and now < self._deploys_until:
            self.run.staff(self._deploy_some)

    def _deploy_some(self) -> None:
        for name, count in zip(sorted(PAUSES), (20, 4), strict=True):
            self._deploy(name, count)

    def _deploy(self, name: str, count: int) -> None:
        self._resume_stopped()
        self.site.staff_does("deploy", name, "--count", str(count))

    def _resume_stopped(self) -> None:
        """Let staff look at alarms: full disks and killed processes make tasks fail."""
        with suppress(psycopg.Error):
            for (name,) in self.site.rows(STOPPED, seconds=0):
                if self.site.ask(self.site.staff, "experiments", "resume", name).returncode == 0:
                    self.site.resumed[name] += 1

    # --- the end ----------------------------------------------------------------------------------

    def heal(self) -> None:
        """Undo every fault that is still in effect, and make sure that everything runs."""
        for _, _, _, do in sorted(self._heals, key=lambda h: h[:2]):
            do()
        self._heals.clear()
        self._continue_all()
        self.run.operator.shutdown(wait=True)
        self.run.people.shutdown(wait=True)
        self.run.staff_queue.shutdown(wait=True)
        for future in self.run.staff_pending:
            future.result()
        for agent in self.site.agents:
            agent.link.fault = LinkFault()
            agent.clock.write_text("0")
            agent.busy = ""
            if disk.may_mount():
                disk.free(agent.program.folder)
        self._continue_all()
        self.site.restart_postgres()
        self.site.keep_services()

    def _continue_all(self) -> None:
        for process in self.site.processes():
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGCONT)

    def settle(self, seconds: float) -> bool:
        """Wait until nothing is queued, running or compared; False when that takes too long."""
        until = time.monotonic() + seconds
        hurried_at = 0.0
        while time.monotonic() < until:
            self.site.keep_services()
            if time.monotonic() > hurried_at + 10:  # else a late retry may be minutes away
                hurried_at = time.monotonic()
                self._resume_all()
            with suppress(psycopg.Error):
                if not self.site.value(OPEN, seconds=0):
                    return True
            time.sleep(0.5)
        return False

    def _resume_all(self) -> None:
        """Do what people do after such an hour: staff look at alarms, volunteers at their hosts.

        New work lets a host succeed that failed last; until then it is given no replica.
        """
        self._resume_stopped()
        with suppress(psycopg.Error):
            if not self.site.value(UNDER_WAY, seconds=0):
                self._deploy("brief_walk", len(self.site.agents))
        for agent in self.site.agents:
            self.site.ask(agent.program, "resume")
            self.site.ask(agent.program, "sync")


#: Experiments that the watchdog stopped: paused tasks look slow, and a full disk fails them.
STOPPED = """SELECT DISTINCT e.name FROM versions v JOIN experiments e USING (experiment_id)
             WHERE v.state = 'stopped'"""
UNDER_WAY = """
SELECT (SELECT count(*) FROM queue) + (SELECT count(*) FROM tasks WHERE state = 'leased')"""
#: What has not ended yet.
OPEN = """
SELECT (SELECT count(*) FROM queue) + (SELECT count(*) FROM tasks WHERE state = 'leased')
     + (SELECT count(*) FROM comparisons WHERE state IN ('wanted', 'placed', 'disputed'))"""
