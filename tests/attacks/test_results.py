"""Attacks by a task's messages: forged, oversized, NaN-filled, nested results; checkpoints."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from axiom_client.decide.task_run import TaskFinished
from tests.attacks.conftest import Attack
from tests.support.running import LIMITS

GOOD = '{"valid":1,"configs_done":1,"value":[2.0]}'


def say(text: str) -> str:
    """A body that writes its own result line to the channel and leaves."""
    return f"os.write(3, b'r' + {text!r}.encode() + b'\\n'); os._exit(0)"


def refused(finished: TaskFinished, *words: str) -> None:
    """Assert that the gate, or the size, refused it."""
    assert finished.outcome == "failed", finished
    assert finished.result is None
    for word in words:
        assert word in finished.message


def accepted(finished: TaskFinished) -> None:
    """Assert that the harmless twin is a success."""
    assert finished.outcome == "success", finished.message
    assert finished.result == {"valid": 1, "configs_done": 1, "value": [2.0]}


def test_forged_field(attack: Attack) -> None:
    refused(attack.run(say(GOOD[:-1] + ',"credit":1000000}')), "'credit' is not declared")
    accepted(attack.run(say(GOOD)))


def test_missing_field(attack: Attack) -> None:
    refused(attack.run(say('{"valid":1,"configs_done":1}')), "'value' is missing")
    accepted(attack.run("value = [2.0]"))


def test_text_in_result(attack: Attack) -> None:
    script = '{"valid":1,"configs_done":1,"value":["<script>alert(1)</script>"]}'
    refused(attack.run(say(script)), "must be a number, not a text")
    accepted(attack.run("value = [2]"))


def test_nan_filled_result(attack: Attack) -> None:
    refused(attack.run("value = [float('nan')] * 10"), "not finite")
    refused(attack.run("value = [float('inf')]"), "not finite")
    refused(attack.run(say(GOOD.replace("2.0", "NaN"))), "not JSON")
    accepted(attack.run("value = [2.0]"))


def test_huge_number(attack: Attack) -> None:
    refused(attack.run(say(GOOD.replace("2.0", "9" * 400))))
    refused(attack.run(say(GOOD.replace("2.0", "1e308"))), "finite")
    accepted(attack.run("value = [2.0]"))


def test_deeply_nested_result(attack: Attack) -> None:
    refused(attack.run(say("[" * 100_000 + "]" * 100_000)), "nested")
    refused(attack.run("x = []\nfor _ in range(100000):\n    x = [x]\nimport json; value = x"))
    accepted(attack.run("value = [2.0]"))


def test_oversized_result(attack: Attack) -> None:
    limits = msgspec.structs.replace(LIMITS, result_bytes=1000)
    refused(attack.run("value = [1.5] * 10000", limits), "at most 1000")
    refused(attack.run(say('{"value":[' + "1," * 10_000 + "1]}"), limits))
    accepted(attack.run("value = [2.0]", limits))


def test_oversized_result_at_the_default_limit(attack: Attack) -> None:
    refused(attack.run("os.write(3, b'r')\nfor _ in range(100):\n    os.write(3, b'1' * 100000)"))
    accepted(attack.run("value = [2.0]"))


def test_pickle_instead_of_json(attack: Attack) -> None:
    body = "import pickle; os.write(3, b'r' + pickle.dumps(print) + b'\\n'); os._exit(0)"
    refused(attack.run(body), "not JSON")
    accepted(attack.run("value = [2.0]"))


def test_second_result(attack: Attack) -> None:
    """The first result counts: code that the experiment left running cannot replace it."""
    accepted(attack.run(f"os.write(3, b'r' + {GOOD!r}.encode() + b'\\n'); value = [3.0]"))


def test_result_and_then_a_bad_end(attack: Attack) -> None:
    body = f"os.write(3, b'r' + {GOOD!r}.encode() + b'\\n'); os._exit(9)"
    finished = attack.run(body)
    assert finished.outcome == "failed"
    assert finished.result is None
    accepted(attack.run("value = [2.0]"))


def test_forged_failure(attack: Attack) -> None:
    """A child may report its own failure; messages of unknown kinds are ignored."""
    finished = attack.run('os.write(3, b\'e{"kind": "success", "message": ""}\\n\'); os._exit(1)')
    assert finished.outcome == "failed"
    accepted(attack.run("value = [2.0]"))


def test_terminal_escapes_in_output(attack: Attack) -> None:
    """What a task prints is text; the report carries it, bounded."""
    finished = attack.run("print('\\x1b[2J' * 10000); raise ValueError('end')")
    assert finished.outcome == "failed"
    assert len(finished.message) <= 8_000
    assert "\x1b" not in finished.message
    accepted(attack.run("value = [2.0]"))


def test_result_that_is_not_numbers(attack: Attack) -> None:
    refused(attack.run("value = [object()]"))
    accepted(attack.run("import numpy as np; value = [np.float32(2.0)]"))


RESTORE = """
import resource
state = task.restore()
value = [2.0] if state is None else [state["x"][0] if "x" in state else -1.0]
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert peak < 1 << 20, peak
"""


def plant(attack: Attack, content: bytes) -> Path:
    """A task's folder with this checkpoint in it."""
    own = attack.folder / "own"
    own.mkdir()
    (own / "checkpoint.npz").write_bytes(content)
    return own


def zipped(entries: dict[str, bytes]) -> bytes:
    """A compressed archive."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def header(shape: str, kind: str = "<f8") -> bytes:
    """The start of an .npy file that claims this shape."""
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


@pytest.mark.parametrize(
    "content",
    [
        lambda: zipped({"tree.npy": bytes(900 << 20)}),
        lambda: zipped({"tree.npy": header("(10000000000000,)"), "a0.npy": header("(1 << 50,)")}),
        lambda: zipped({"tree.npy": header("(9,)", "|O") + b"cos\nsystem\n(S'true'\ntR."}),
        lambda: b"not a zip at all",
        lambda: zipped({"tree.npy": header("(3,)", "|u1") + b"[[["}),
    ],
    ids=["bomb", "claims-petabytes", "pickle", "garbage", "broken-tree"],
)
def test_checkpoint_that_is_a_bomb(attack: Attack, content: Callable[[], bytes]) -> None:
    """It is put aside, cheaply, and the task starts afresh."""
    finished = attack.run(RESTORE, task_folder=plant(attack, content()))
    accepted(finished)
    own = attack.folder / "good"
    own.mkdir()
    first = attack.run("task.checkpoint({'x': [2.0]}); value = [2.0]", task_folder=own)
    accepted(first)
    accepted(attack.run("value = [task.restore()['x'][0]]", task_folder=own))


def test_checkpoint_of_an_array_survives(attack: Attack) -> None:
    own = attack.folder / "own"
    own.mkdir()
    attack.run("import numpy as np; task.checkpoint({'x': np.arange(3.0)})", task_folder=own)
    finished = attack.run("value = list(task.restore()['x'])", task_folder=own)
    assert finished.result["value"] == list(np.arange(3.0))
