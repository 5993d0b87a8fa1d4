"""Measures the load of other programs and people, as far as a configured limit depends on it."""

from __future__ import annotations

import shutil
from pathlib import Path

from axiom_client.decide.commands import MeasureLoad
from axiom_client.decide.model import Load
from axiom_client.host.cores import probe_memory
from axiom_client.host.heat import processor_celsius
from axiom_client.host.load import LoadProbe
from axiom_client.host.presence import Presence, probe_presence
from axiom_client.host.programs import running_program

NOT_IN_USE = Presence(in_use=False, has_battery=False, on_battery=False)


class LoadMeter:
    """Measures on request. ``folder`` is on the disk that tasks use."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._others = LoadProbe()

    def load(self, wanted: MeasureLoad) -> Load:
        """Measure what is ``wanted``; the other fields keep their defaults."""
        disk = shutil.disk_usage(self._folder) if wanted.space else None
        presence = probe_presence() if wanted.presence else NOT_IN_USE
        return Load(
            other_cores=self._others.other_cores() if wanted.others else 0.0,
            in_use=presence.in_use,
            has_battery=presence.has_battery,
            on_battery=presence.on_battery,
            temperature=processor_celsius() if wanted.heat else None,
            exclusive=running_program(wanted.programs) if wanted.programs else "",
            memory_available_bytes=probe_memory().free_bytes if wanted.space else None,
            disk_free_bytes=disk.free if disk else None,
            disk_total_bytes=disk.total if disk else 0,
        )
