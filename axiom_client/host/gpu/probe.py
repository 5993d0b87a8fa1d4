"""GPUs are looked for in a short-lived child process: drivers crash, hang and leak."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import msgspec
from msgspec import Struct

from axiom_client.host.gpu import vendors
from axiom_protocol.messages import GpuFacts

PROBE_SECONDS_MAX = 60.0  # importing torch on a cold, busy disk; a hanging driver hangs longer


class GpuReport(Struct, frozen=True):
    """The GPUs that can be used, and why others that seem to be there cannot."""

    gpus: list[GpuFacts] = []
    problems: list[str] = []


class GpuProbe:
    """Remembers the last report: a host whose drivers stay the same pays for it once."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._traces: list[str] | None = None
        self._report = GpuReport()

    async def report(self) -> GpuReport:
        """What can be used now. Asks again while drivers change or nothing usable was found."""
        traces = vendors.traces(self._root)
        if traces != self._traces or (traces and not self._report.gpus):
            there = vendors.present(self._root)
            self._report = await _ask_child() if there else GpuReport()
            self._traces = traces
        return self._report


async def _ask_child() -> GpuReport:
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "axiom_client.host.gpu.child",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        out, _ = await asyncio.wait_for(child.communicate(), PROBE_SECONDS_MAX)
        return msgspec.json.decode(out, type=GpuReport)
    except TimeoutError:
        child.kill()
        await child.wait()
        return GpuReport(problems=[f"a GPU's driver did not answer in {PROBE_SECONDS_MAX:.0f} s"])
    except msgspec.DecodeError:
        return GpuReport(problems=[f"looking for GPUs ended with code {child.returncode}"])
    except asyncio.CancelledError:  # the agent ends: nothing of it may stay behind
        child.kill()
        await child.wait()
        raise
