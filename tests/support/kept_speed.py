"""The speed of this machine, measured by the first agent that attaches and kept for the others.

The benchmark takes a third of a second of CPU for each new folder of an agent. Its measurement is
tested in tests/attacks/test_current_folder.py, and installed programs always measure.
"""

from __future__ import annotations

from pathlib import Path

from axiom_client.agent import attach
from axiom_client.host.speed import Speed, keep_speed, known_speed, measure_speed

KEPT = Path(__file__).parents[2] / ".pytest_cache" / "speed.json"


def keep_measured_speed() -> None:
    """Measure once for each processor, from now on in this process and those forked from it."""

    async def measure_once(processor: str) -> Speed:
        if known := known_speed(KEPT, processor):
            return Speed(processor=processor, gflops=known)
        speed = await measure_speed(processor)
        KEPT.parent.mkdir(exist_ok=True)
        keep_speed(KEPT, speed)
        return speed

    attach.measure_speed = measure_once  # type: ignore[attr-defined]
