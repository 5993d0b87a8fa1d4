"""The ``task`` that an experiment receives: seed, parameters, device, budget and checkpoints."""

from __future__ import annotations

import io
import json
import os
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

CHECKPOINT_NAME = "checkpoint.npz"
CHECKPOINT_BYTES_MAX = (
    256 * 1024 * 1024
)  # unpacked; larger states do not belong in a small experiment


class CheckpointError(ValueError):
    """A checkpoint could not be written or read; the message says why."""


class TaskStopped(BaseException):
    """The agent asked the task to stop and its state is saved. Experiments must not catch it."""


class CohortStop:
    """Decides when a cohort that was asked to stop ends.

    It ends when every member has saved its state since the request; or, if no member ever saves
    one, when every member has reported progress since then.
    """

    def __init__(self, members: int, requested: Callable[[], bool]) -> None:
        self._members = range(members)
        self._left = set(self._members)
        self._requested = requested
        self._saves = False

    def for_member(self, member: int) -> Callable[[bool], bool]:
        """A function that ``member`` calls with whether it has just saved its state; it returns
        whether the cohort ends now."""

        def ends(saved: bool) -> bool:
            if saved and not self._saves:
                self._saves, self._left = True, set(self._members)
            if self._requested() and saved == self._saves:
                self._left.discard(member)
            return self._requested() and not self._left

        return ends


class Task:
    """One computation, as the experiment sees it.

    seed             int >= 0, always explicit: the only source of randomness
    parameters       mapping of the declared parameters, each with a value inside its range
    device           "cpu" or a torch device such as "cuda:0"
    budget_seconds   nominal seconds; it determines how many configurations are run. It is the same
                     on every host that runs this workunit and is never compared with a clock
    """

    def __init__(
        self,
        *,
        seed: int,
        parameters: dict[str, Any],
        budget_seconds: float,
        folder: Path,
        device: str = "cpu",
        on_progress: Callable[[float], None] | None = None,
        stop_requested: Callable[[bool], bool] | None = None,
    ) -> None:
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise ValueError(f"a task needs an explicit seed, a whole number >= 0, not {seed!r}")
        self.seed = seed
        self.parameters = parameters
        self.budget_seconds = budget_seconds
        self.device = device
        self.folder = folder
        self._on_progress = on_progress
        self._stop_requested = stop_requested or (lambda _saved: False)
        self._checkpoints = False

    def rng(self, stream: int) -> np.random.Generator:
        """An independent generator for each stream: PCG64 from SeedSequence([seed, stream])."""
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence([self.seed, stream])))

    def progress(self, fraction: float) -> None:
        """Report how much is done, 0 to 1."""
        if self._on_progress is not None:
            self._on_progress(min(1.0, max(0.0, float(fraction))))
        if not self._checkpoints and self._stop_requested(False):
            raise TaskStopped("stopped; the experiment writes no checkpoints")

    def checkpoint(self, state: dict[str, Any]) -> None:
        """Save a state: numbers, texts, lists, tables, arrays and torch tensors. Never pickle.

        Atomic: a crash leaves the previous checkpoint. Raises CheckpointError on anything else.
        If the agent has asked the task to stop, the task ends here, with its state saved.
        """
        self._checkpoints = True
        arrays: list[np.ndarray] = []
        tree = _encode(state, arrays)
        size = sum(array.nbytes for array in arrays)
        if size > CHECKPOINT_BYTES_MAX:
            raise CheckpointError(
                f"the checkpoint holds {size} bytes; at most {CHECKPOINT_BYTES_MAX}"
            )
        buffer = io.BytesIO()
        text = np.frombuffer(json.dumps(tree, allow_nan=True).encode(), dtype=np.uint8)
        named = {f"a{i}": array for i, array in enumerate(arrays)}
        np.savez(buffer, allow_pickle=False, tree=text, **named)
        path = self.folder / CHECKPOINT_NAME
        partial = path.with_suffix(".partial")
        partial.write_bytes(buffer.getbuffer())
        os.replace(partial, path)
        if self._stop_requested(True):
            raise TaskStopped("stopped after a checkpoint")

    def restore(self) -> dict[str, Any] | None:
        """The last checkpoint of this task, or None on a first run. Tensors come back as arrays.

        A checkpoint that is damaged or too large is deleted, with a line on standard error, and the
        task starts from the beginning: the results are those of an uninterrupted run.
        """
        path = self.folder / CHECKPOINT_NAME
        if not path.exists():
            return None
        try:
            state = _read(path)
        except (CheckpointError, *_DAMAGE) as error:
            print(f"the checkpoint cannot be used: {error}", file=sys.stderr)
            path.unlink()
            return None
        self._checkpoints = True
        return state


#: What numpy, zipfile and json raise on a damaged checkpoint.
_DAMAGE = (
    OSError, ValueError, KeyError, TypeError, IndexError, EOFError, RecursionError, MemoryError,
    zipfile.BadZipFile, zlib.error, NotImplementedError,
)  # fmt: skip


def _read(path: Path) -> dict[str, Any]:
    with zipfile.ZipFile(path) as packed:
        size = sum(entry.file_size for entry in packed.infolist())
    if size > 2 * CHECKPOINT_BYTES_MAX:  # arrays, their headers and the tree
        raise CheckpointError(f"it unpacks to {size} bytes; at most {2 * CHECKPOINT_BYTES_MAX}")
    with np.load(path, allow_pickle=False) as archive:
        tree = json.loads(archive["tree"].tobytes())
        arrays = [archive[f"a{i}"] for i in range(len(archive.files) - 1)]
    state = _decode(tree, arrays)
    if not isinstance(state, dict):
        raise CheckpointError("its state is not a table")
    return state


def _encode(value: Any, arrays: list[np.ndarray]) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if hasattr(value, "detach"):  # a torch tensor, without importing torch
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray):
        arrays.append(value.copy())
        return {"array": len(arrays) - 1}
    if isinstance(value, (list, tuple)):
        return {"list": [_encode(item, arrays) for item in value]}
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {"table": {key: _encode(item, arrays) for key, item in value.items()}}
    raise CheckpointError(
        f"a checkpoint cannot hold {type(value).__name__}; use numbers and arrays"
    )


def _decode(tree: Any, arrays: list[np.ndarray]) -> Any:
    if not isinstance(tree, dict):
        return tree
    if "array" in tree:
        return arrays[tree["array"]]
    if "list" in tree:
        return [_decode(item, arrays) for item in tree["list"]]
    return {key: _decode(item, arrays) for key, item in tree["table"].items()}
