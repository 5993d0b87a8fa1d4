"""The temperature of the processor."""

from __future__ import annotations

import psutil

#: Drivers of sensors in processors; others measure disks, radios and chargers.
PROCESSOR = ("coretemp", "k10temp", "zenpower", "cpu_thermal", "cpu-thermal", "soc_thermal",
             "x86_pkg_temp", "acpitz", "fam15h_power", "apple_smc")  # fmt: skip


def processor_celsius() -> float | None:
    """The highest reading of the processor's sensors; None if there are none."""
    if not hasattr(psutil, "sensors_temperatures"):
        return None
    sensors = psutil.sensors_temperatures()
    found = [s.current for name in PROCESSOR for s in sensors.get(name, []) if s.current]
    return max(found, default=None)
