"""The experiments of a chaos run: one short, one long with checkpoints, one that always fails."""

from __future__ import annotations

from pathlib import Path

from tests.support.programs import FIXTURES

WALK = FIXTURES / "experiments" / "short_walk.py"
PAUSES = {"brief_walk": 0.3, "long_walk": 9.0}  # seconds that a task holds its slot
POISON = "poison_walk"


def write(folder: Path, name: str, patch: int) -> Path:
    """Version 1.0.``patch`` of an experiment, as a file."""
    source = WALK.read_text()
    source = source.replace('name = "short_walk"', f'name = "{name}"')
    source = source.replace('version = "1.0.0"', f'version = "1.0.{patch}"')
    pause = PAUSES.get(name, 0.0)
    source = source.replace("walks = { default = 400", "walks = { default = 20")  # cores are few
    # With so few walks, two of some hundred seeds have the same exponent.
    fit = "np.polyfit(np.log(STEPS), np.log(distances), 1)[0]"
    source = source.replace(fit, f"{fit} + 0.01 * task.rng(3).random()")
    default = "pause_seconds = {{ default = {}"
    source = source.replace(default.format(0.0), default.format(pause))
    source = source.replace("expected_seconds = 1", f"expected_seconds = {1 + pause:g}")
    if name == POISON:
        first = "    state = task.restore()"
        source = source.replace(first, f"    raise ValueError(task.seed)\n{first}")
    path = folder / f"{name}-{patch}.py"
    path.write_text(source)
    return path
