"""``axiom-client try`` runs an experiment once and prints its result."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import msgspec

from axiom_client.errors import TrialFailed
from axiom_client.host.gpu import vendors
from axiom_client.host.gpu.probe import GpuProbe
from axiom_client.run.tryout import (
    Run,
    TryProblem,
    TryResult,
    read_parameters,
    read_script,
    try_experiment,
)
from axiom_protocol.messages import GpuFacts
from axiom_protocol.text import counted

LINE_CHARACTERS = 100


def try_file(
    path: Path,
    *,
    seed: int,
    given: list[str],
    budget_seconds: float | None,
    device: str,
    plot: Path | None,
    as_json: bool,
    other_seeds: list[int] | None = None,
) -> None:
    """Run an experiment, print its outcome and result, and draw it if asked. Raises TrialFailed."""
    gpus = named_gpu(device)
    try:
        manifest = read_script(path)[1]
        run = Run(
            path=path,
            seed=seed,
            parameters=read_parameters(manifest, given),
            budget_seconds=budget_seconds,
            device=vendors.torch_device(gpus),
            driver=vendors.access(gpus),
            other_seeds=other_seeds or [],
        )
        shown = not as_json and sys.stderr.isatty()
        tried = try_experiment(run, _show_progress if shown else None)
    except (TryProblem, OSError) as error:
        raise TrialFailed(f"{error}") from None
    print(_as_json(tried) if as_json else _as_text(tried))
    for finished in (tried.finished, *tried.others.values()):
        if finished.outcome != "success":
            raise TrialFailed(
                f"{tried.manifest.ref} ended as {finished.outcome}; see its message above"
            )
    if plot is not None:
        from axiom_protocol.figure import (  # imports matplotlib, so only where needed
            FigureError,
            draw,
        )

        try:
            draw(tried.manifest, [tried.finished.result], plot)
        except FigureError as error:
            raise TrialFailed(str(error)) from None
        if not as_json:
            print(f"figures written to {plot}")


def named_gpu(device: str) -> list[GpuFacts]:
    """The GPU that "gpu", "gpu:1" or torch's name such as "cuda:0" means; none for "cpu".

    Raises TrialFailed.
    """
    kind, _, number = device.partition(":")
    if device == "cpu":
        return []
    if kind not in ("gpu", "cuda", "mps") or not (number.isdigit() or not number):
        raise TrialFailed(f"--device {device!r}: write cpu, gpu, or gpu:1 for the second GPU")
    found = asyncio.run(GpuProbe().report())
    index = int(number or 0)
    if index >= len(found.gpus):
        usable = f"this host has {counted(len(found.gpus), 'usable GPU')}"
        why = "; ".join(found.problems) or usable
        raise TrialFailed(f"--device {device}: there is no such GPU: {why}")
    return [found.gpus[index]]


def _show_progress(fraction: float) -> None:
    end = "\n" if fraction >= 1 else "\r"
    print(f"{fraction:6.1%}", end=end, file=sys.stderr, flush=True)


def facts(tried: TryResult) -> dict[str, Any]:
    """What ``--json`` prints."""
    finished = tried.finished
    return {
        "experiment": tried.manifest.ref,
        "sha256": tried.sha256,
        "seed": tried.seed,
        "parameters": tried.parameters,
        "budget_seconds": tried.budget_seconds,
        "outcome": finished.outcome,
        "message": finished.message,
        "elapsed_seconds": finished.elapsed_seconds,
        "cpu_seconds": finished.cpu_user_seconds + finished.cpu_system_seconds,
        "peak_memory_bytes": finished.peak_memory_bytes,
        "result": finished.result,
    } | _other_facts(tried)


def _other_facts(tried: TryResult) -> dict[str, Any]:
    """The other seeds of a cohort, where there are any."""
    if not tried.others:
        return {}
    others = [
        {"seed": seed, "outcome": end.outcome, "message": end.message, "result": end.result}
        for seed, end in sorted(tried.others.items())
    ]
    return {"cohort": others}


def _as_json(tried: TryResult) -> str:
    return msgspec.json.encode(facts(tried)).decode()


def _as_text(tried: TryResult) -> str:
    finished = tried.finished
    cpu = finished.cpu_user_seconds + finished.cpu_system_seconds
    lines = [
        f"{tried.manifest.ref} with seed {tried.seed}: {finished.outcome}",
        f"elapsed {finished.elapsed_seconds:.1f} s, CPU {cpu:.1f} s, "
        f"peak memory {finished.peak_memory_bytes / 2**20:.0f} MiB",
    ]
    lines += [f"  {name} = {value!r}" for name, value in tried.parameters.items()]
    if finished.message:
        lines.append(finished.message)
    for name, value in (finished.result or {}).items():
        shown = f"  {name}: {value!r}"
        if len(shown) > LINE_CHARACTERS:
            shown = f"{shown[: LINE_CHARACTERS - 30]} ... ({counted(len(value), 'item')})"
        lines.append(shown)
    for seed, end in sorted(tried.others.items()):
        lines.append(f"seed {seed} in the same process: {end.outcome} {end.message}".rstrip())
    return "\n".join(lines)
