"""The variables by which owners, Slurm and containers leave some GPUs to a process."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from axiom_protocol.messages import GpuFacts


def visible(
    gpus: Sequence[GpuFacts],
    variable: str | None,
    is_named: Callable[[GpuFacts, str], bool] = lambda gpu, word: gpu.uuid.startswith(word),
) -> list[GpuFacts]:
    """Those that CUDA_VISIBLE_DEVICES or HIP_VISIBLE_DEVICES leaves, in its order.

    Numbers, or what ``is_named`` accepts as a name; as in CUDA, what follows the first word that
    names no GPU is not seen. None: the variable is not set, and all are seen.
    """
    if variable is None:
        return list(gpus)
    seen: list[GpuFacts] = []
    for word in filter(None, (part.strip() for part in variable.split(","))):
        if word.isdigit():
            named = list(gpus[int(word) : int(word) + 1])
        else:
            named = [gpu for gpu in gpus if is_named(gpu, word)][:1]
        if not named or named[0] in seen:
            break
        seen += named
    return seen
