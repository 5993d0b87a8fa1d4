"""How hot the processor is, where the system tells."""

from __future__ import annotations

import psutil

#: Drivers of processors' own sensors; others measure disks, radios and chargers.
PROCESSOR = ("coretemp", "k10temp", "zenpower", "cpu_thermal", "cpu-thermal", "soc_thermal",
             "x86_pkg_temp", "acpitz", "fam15h_power", "apple_smc")  # fmt: skip


def processor_celsius() -> float | None:
    """The hottest sensor of the processor; None where there is none, or the system cannot say."""
    if not hasattr(psutil, "sensors_temperatures"):
        return None
    sensors = psutil.sensors_temperatures()
    found = [s.current for name in PROCESSOR for s in sensors.get(name, []) if s.current]
    return max(found, default=None)
