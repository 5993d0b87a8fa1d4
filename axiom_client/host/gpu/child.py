"""The child process of the GPU probe: prints a JSON report of the usable GPUs and exits."""

from __future__ import annotations

import importlib.util
import os
import sys

import msgspec

from axiom_client.host.gpu.probe import GpuReport
from axiom_client.host.gpu.vendor import ProbeFailed, Vendor
from axiom_client.host.gpu.vendors import present
from axiom_client.sandbox.selftest import self_test
from axiom_client.system.child_lifetime import end_with_parent
from axiom_protocol.messages import GpuFacts


def report() -> GpuReport:
    """Probe each vendor that may be present; a failure of one does not hide another's GPUs."""
    gpus: list[GpuFacts] = []
    problems: list[str] = []
    if importlib.util.find_spec("torch") is None:
        return GpuReport(problems=["torch is not installed, so no GPU can be used"])
    for vendor in present():
        try:
            gpus += confinable(_found_by(vendor), vendor)
        except ProbeFailed as failed:
            problems.append(str(failed))
    return GpuReport(gpus, problems)


def confinable(gpus: list[GpuFacts], vendor: Vendor) -> list[GpuFacts]:
    """These GPUs, if a task on them can be confined. Raises ProbeFailed.

    Tried on macOS only: no hardware of Apple's was met when its rules were written.
    """
    if not gpus or sys.platform not in vendor.SYSTEMS:
        return gpus
    tried = self_test(vendor.access(gpus))
    if not tried.ok:
        raise ProbeFailed(f"{vendor.BACKEND}: its tasks cannot be confined: {tried.reason}")
    return gpus


def _found_by(vendor: Vendor) -> list[GpuFacts]:
    try:
        return vendor.probe(os.environ)
    except ProbeFailed:
        raise
    except Exception as error:  # noqa: BLE001  a driver's library may raise anything
        raise ProbeFailed(f"{vendor.BACKEND}: {type(error).__name__}: {error}") from None


if __name__ == "__main__":
    end_with_parent()
    sys.stdout.buffer.write(msgspec.json.encode(report()))
