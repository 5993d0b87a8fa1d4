"""Whether a granted task can ever run here, judged by its bundle's signed metadata."""

from __future__ import annotations

from collections import Counter

import msgspec

from axiom_client.decide.binding import GrantRefused, bind
from axiom_client.decide.model import AgentState, TaskState
from axiom_client.decide.step_builder import StepBuilder
from axiom_protocol.manifest import Manifest, Resources
from axiom_protocol.messages import GpuFacts, HostFacts
from axiom_protocol.text import counted


def accept(builder: StepBuilder, task: TaskState, manifest: Manifest) -> None:
    """Queue a task whose bundle is verified, or give it back if it can never run here."""
    if why := misfit(builder.state, task, manifest):
        builder.log(f"task {task.task_id} of {task.ref} is given back: {why}", "warning")
        builder.give_back(task, why)
        return
    record = task.record
    if not record.accepted:
        record = msgspec.structs.replace(record, accepted=True)
        builder.save(record)
    builder.advance(task, "bundle_ready", record=record)


def misfit(state: AgentState, task: TaskState, manifest: Manifest) -> str:
    """Why a task can never run here; empty when it can."""
    facts, limits, needs = state.facts, state.limits, manifest.resources
    try:
        bind(task.record.grant, manifest)
    except GrantRefused as refused:
        return str(refused)
    if facts is None:
        return ""
    if manifest.environment not in facts.environments:
        return f"{manifest.environment} is not installed here"
    on_gpu = task.record.grant.device == "gpu"
    if on_gpu and max(1, needs.gpus) > (most := _most_alike(facts.gpus)):
        return f"it needs {counted(max(1, needs.gpus), 'GPU')} and this host has {most}"
    if not on_gpu and needs.cpu_cores > facts.cpu_cores:
        return f"it needs {counted(needs.cpu_cores, 'core')} and this host has {facts.cpu_cores}"
    if needs.memory_bytes > facts.memory_bytes * limits.memory_share:
        return f"it needs {needs.memory_bytes:,} bytes of memory, more than memory.share allows"
    if needs.disk_bytes > limits.disk_bytes:
        return f"it needs {needs.disk_bytes:,} bytes of disk space, more than disk.total allows"
    return _gpu_misfit(facts, needs) if on_gpu else ""


def _gpu_misfit(facts: HostFacts, needs: Resources) -> str:
    large_enough = [gpu for gpu in facts.gpus if gpu.memory_bytes >= needs.gpu_memory_bytes]
    if _most_alike(large_enough) < max(1, needs.gpus):
        return f"it needs {needs.gpu_memory_bytes:,} bytes of GPU memory, more than a GPU here has"
    return ""


def _most_alike(gpus: list[GpuFacts]) -> int:
    """How many of these GPUs one task could use: those of one vendor."""
    return max(Counter(gpu.backend for gpu in gpus).values(), default=0)
