"""Applies the variables by which owners, Slurm and containers select GPUs for a process."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from axiom_protocol.messages import GpuFacts


def visible(
    gpus: Sequence[GpuFacts],
    variable: str | None,
    is_named: Callable[[GpuFacts, str], bool] = lambda gpu, word: gpu.uuid.startswith(word),
) -> list[GpuFacts]:
    """The GPUs that CUDA_VISIBLE_DEVICES or HIP_VISIBLE_DEVICES selects, in its order.

    Its words are numbers, or names that ``is_named`` accepts. As in CUDA, the list ends at the
    first word that names no GPU. None: the variable is not set, and all GPUs are visible.
    """
    if variable is None:
        return list(gpus)
    seen: list[GpuFacts] = []
    for word in filter(None, (part.strip() for part in variable.split(","))):
        if word.isdecimal():
            named = list(gpus[int(word) : int(word) + 1])
        else:
            named = [gpu for gpu in gpus if is_named(gpu, word)][:1]
        if not named or named[0] in seen:
            break
        seen += named
    return seen
