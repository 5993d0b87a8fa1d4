"""Probes for GPUs in a short-lived child process, because drivers crash, hang and leak memory."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import msgspec
from msgspec import Struct

from axiom_client.host.gpu import vendors
from axiom_client.system.child_environment import child_environment
from axiom_protocol.messages import GpuFacts

PROBE_SECONDS_MAX = 60.0  # importing torch on a cold, busy disk; a hanging driver hangs longer


class GpuReport(Struct, frozen=True):
    """The usable GPUs, and why others that seem to be present cannot be used."""

    gpus: list[GpuFacts] = []
    problems: list[str] = []


class GpuProbe:
    """Keeps the last report, so that a host probes once as long as its drivers do not change."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._traces: list[str] | None = None
        self._report = GpuReport()

    async def report(self) -> GpuReport:
        """The current report. Probes again after drivers changed or when no GPU was usable."""
        traces = vendors.traces(self._root)
        if traces != self._traces or (traces and not self._report.gpus):
            self._report = await _ask_child() if vendors.present(self._root) else GpuReport()
            self._traces = traces
        return self._report


async def _ask_child() -> GpuReport:
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "axiom_client.host.gpu.child",
        env=child_environment(),
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
        return GpuReport(problems=[f"the GPU probe exited with code {child.returncode}"])
    except asyncio.CancelledError:  # the agent ends: end the child too
        child.kill()
        await child.wait()
        raise
