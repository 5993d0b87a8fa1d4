"""The facts about a host that are sent to its project."""

from __future__ import annotations

import importlib.util
import platform
import shutil
import socket
from pathlib import Path

from axiom_client.host.cores import probe_cores, probe_memory
from axiom_protocol import __version__
from axiom_protocol.manifest import COHORT_MAX
from axiom_protocol.messages import GpuFacts, HostFacts


def probe_facts(
    name: str, folder: Path, gpus: list[GpuFacts], benchmark_gflops: float = 0.0
) -> HostFacts:
    """The current facts. ``folder`` is on the disk that tasks use; ``gpus`` are from a GpuProbe."""
    cores = probe_cores()
    return HostFacts(
        name=(name or socket.gethostname())[:200],
        os=f"{platform.system()} {platform.release()}"[:200],
        architecture=platform.machine(),
        processor=cores.processor,
        cpu_cores=cores.usable,
        cpu_cores_physical=min(cores.physical, cores.logical),
        benchmark_gflops=benchmark_gflops,
        memory_bytes=probe_memory().total_bytes,
        disk_free_bytes=shutil.disk_usage(folder).free,
        gpus=gpus,
        environments=[env for env in ("numpy", "torch") if importlib.util.find_spec(env)],
        client_version=__version__,
        gpu_cohort=COHORT_MAX if gpus else 0,
    )
