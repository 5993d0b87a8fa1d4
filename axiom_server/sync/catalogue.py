"""The cache of a serving process: published versions, parameter sets and known users.

Any number of processes may serve, because the database is authoritative. The caches are at most
REFRESH_SECONDS old, and nothing that must happen only once depends on them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from axiom_server.decide.epoch import Epoch
from axiom_server.decide.lease import Device, PoolView
from axiom_server.store import epochs, experiments, hosts
from axiom_server.store.database import Connection
from axiom_server.store.experiments import ParametersRow, VersionRow

REFRESH_SECONDS = 1.0  # time until commands of staff affect grants
EMPTY_POOL_SECONDS = 1.0  # time for which an empty pool is not queried again
SCAN_START_SECONDS = 5.0  # time for which rows before the start of a pool's scan are not seen
PARAMETER_SETS_MAX = 100_000  # in the cache; if there are more, it is emptied
KNOWN_SECONDS = 7 * 86400.0  # hosts seen within this time may come back and confirm results


@dataclass
class Catalogue:
    """The cache of one serving process."""

    clock: Callable[[], float] = time.monotonic  # seconds; a simulation passes its own
    versions: dict[int, VersionRow] = field(default_factory=dict)
    parameters: dict[int, ParametersRow] = field(default_factory=dict)
    known_users: frozenset[int] = frozenset()
    epoch: Epoch | None = None
    pools: list[PoolView] = field(default_factory=list)
    granted: dict[tuple[int, str], float] = field(default_factory=dict)
    _empty_until: dict[tuple[int, str], float] = field(default_factory=dict)
    _scan_starts: dict[tuple[int, str], tuple[int, float]] = field(default_factory=dict)
    _valid_until: float = 0.0
    _refresh_lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def refresh(self, connection: Connection) -> None:
        """Reload the cache if it is too old. One of several requests does it; the others wait."""
        if self.clock() < self._valid_until:
            return
        async with self._refresh_lock:
            if self.clock() < self._valid_until:
                return
            found = await experiments.states(connection)
            await self.load_versions(connection, {version_id for version_id, _, _ in found})
            for version_id, state, weight in found:
                known = self.versions[version_id]
                if (known.state, known.weight) != (state, weight):
                    self.versions[version_id] = known._replace(state=state, weight=weight)
            self.epoch = await epochs.current(connection)
            self.known_users = await hosts.live_users(connection, KNOWN_SECONDS)
            self.pools = [
                p for v in self.versions.values() if v.state == "active" for p in pools_of(v)
            ]
            self._valid_until = self.clock() + REFRESH_SECONDS

    async def load_versions(self, connection: Connection, ids: set[int]) -> None:
        """Load the versions that are not cached yet."""
        if missing := ids - self.versions.keys():
            for version in await experiments.versions_by_id(connection, sorted(missing)):
                self.versions[version.version_id] = version

    async def load_parameters(self, connection: Connection, ids: set[int]) -> None:
        """Load the parameter sets that are not cached yet."""
        if missing := ids - self.parameters.keys():
            if len(self.parameters) > PARAMETER_SETS_MAX:
                self.parameters.clear()
                missing = ids
            for found in await experiments.parameter_sets(connection, sorted(missing)):
                self.parameters[found.parameters_id] = found

    def empty_pools(self) -> set[tuple[int, str]]:
        """Pools that were empty a moment ago: (version, device)."""
        now = self.clock()
        return {key for key, until in self._empty_until.items() if until > now}

    def scan_start(self, key: tuple[int, str]) -> int:
        """The place in the queue at which to start looking for a pool's workunits.

        Earlier ones were taken a moment ago. Until the next vacuum, the index begins with their
        dead rows, which every query would have to skip.
        """
        start, until = self._scan_starts.get(key, (0, 0.0))
        return start if until > self.clock() else 0

    def record_offers(
        self, key: tuple[int, str], start: int, places: Sequence[int], limit: int
    ) -> bool:
        """Record the places that a query found, which began at ``start`` with LIMIT ``limit``.

        Returns whether the pool may have more before ``start``, where the next query begins.
        """
        now = self.clock()
        if len(places) == limit:
            _, until = (
                self._scan_starts.get(key, (0, now)) if start else (0, now + SCAN_START_SECONDS)
            )
            self._scan_starts[key] = (max(start, *places), until)
            return False
        self._scan_starts.pop(key, None)  # requeued workunits may be anywhere
        if not start:
            self._empty_until[key] = now + EMPTY_POOL_SECONDS
        return start > 0

    def record_granted(self, key: tuple[int, str], count: int) -> None:
        """Count what was granted from a pool, so that pools share the grants by weight."""
        weight = self.versions[key[0]].weight
        base = min(
            (self.granted.get((p.version_id, p.device), 0.0) for p in self.pools), default=0.0
        )
        # Otherwise a pool that was empty for long would get all grants until it has caught up.
        self.granted[key] = max(self.granted.get(key, base), base) + count / max(weight, 1e-9)


def pools_of(version: VersionRow) -> list[PoolView]:
    """The pools of a version: one for each device that can run it."""
    resources = version.manifest.resources
    cpu = PoolView(
        version_id=version.version_id,
        device="cpu",
        environment=version.manifest.environment,
        cpu_cores=resources.cpu_cores,
        memory_bytes=resources.memory_bytes,
        expected_seconds=version.manifest.expected_seconds,
        weight=version.weight,
        cohort=version.manifest.cohort.most if version.manifest.cohort else 1,
    )
    devices: list[Device] = ["gpu"] if resources.gpus else ["cpu"]
    if not resources.gpus and cpu.environment == "torch":
        devices.append("gpu")
    return [replace(cpu, device=device) for device in devices]
