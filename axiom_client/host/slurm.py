"""The resources that Slurm allocated to this job, for nodes where no cgroup enforces them."""

from __future__ import annotations

import os
from collections.abc import Mapping

MIB = 1 << 20


def allocated_cores(environment: Mapping[str, str] = os.environ) -> int | None:
    """Cores of the allocation; None outside a Slurm job."""
    text = environment.get("SLURM_CPUS_ON_NODE", "") if "SLURM_JOB_ID" in environment else ""
    return int(text) if text.isdecimal() and int(text) > 0 else None


def allocated_memory_bytes(environment: Mapping[str, str] = os.environ) -> int | None:
    """Memory of the allocation; None outside a Slurm job, or if it is not limited."""
    if "SLURM_JOB_ID" not in environment:
        return None
    node = environment.get("SLURM_MEM_PER_NODE", "")
    if node.isdecimal() and int(node) > 0:
        return int(node) * MIB
    core, cores = environment.get("SLURM_MEM_PER_CPU", ""), allocated_cores(environment)
    return int(core) * cores * MIB if core.isdecimal() and int(core) > 0 and cores else None
