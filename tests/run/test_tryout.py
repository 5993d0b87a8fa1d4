"""``axiom-client try`` and ``doctor``, as scientists and volunteers use them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from axiom_client.run.tryout import TryProblem, read_parameters
from axiom_protocol.manifest import read_manifest
from tests.support.commands import run_command
from tests.support.running import finish, make_spec, script

CHECKOUT = Path(__file__).parents[2]
WALK = CHECKOUT / "tests" / "fixtures" / "experiments" / "short_walk.py"


def client(*words: str, code: int = 0) -> str:
    """Run axiom-client to its end; stdout, or stderr where it must fail."""
    done = run_command("axiom-client", *words, environment=os.environ)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr if code else done.stdout


def test_try_gives_the_bytes_of_a_warm_and_of_a_cold_task(tmp_path: Path) -> None:
    source = script(
        "import numpy as np; value = list(np.linalg.svd(task.rng(1).random((9, 9)))[1])"
    )
    path = tmp_path / "small.py"
    path.write_text(source)
    tried = json.loads(client("try", str(path), "--seed", "11", "--json"))
    assert tried["outcome"] == "success"
    for prefer in ("warm", "cold"):
        finished = finish(make_spec(tmp_path, source, seed=11), prefer)  # type: ignore[arg-type]
        assert json.dumps(finished.result) == json.dumps(tried["result"])


def test_try_with_parameters(tmp_path: Path) -> None:
    text = client("try", str(WALK), "--seed", "3", "--param", "walks=50")
    assert "short_walk@1.0.0 with seed 3: success" in text
    assert "walks = 50" in text
    assert "exponent" in text


def test_try_of_a_failing_experiment_shows_why(tmp_path: Path) -> None:
    path = tmp_path / "small.py"
    path.write_text(script("open('/etc/passwd')"))
    done = subprocess.run(
        [sys.executable, "-m", "axiom_client", "try", str(path), "--seed", "1"],
        cwd=CHECKOUT, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 24
    assert "PermissionError" in done.stdout
    assert "ended as failed" in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--param", "steps=3"], "has: pause_seconds, walks"),
        (["--param", "walks=many"], "is not like 400"),
        (["--param", "walks=1"], "must be at least 10"),
    ],
)
def test_try_refuses_wrong_parameters_in_one_line(words: list[str], said: str) -> None:
    text = client("try", str(WALK), "--seed", "3", *words, code=24)
    assert said in text
    assert len(text.strip().splitlines()) == 1


def test_try_of_no_experiment(tmp_path: Path) -> None:
    path = tmp_path / "empty.py"
    path.write_text("print('hello')\n")
    assert "metadata" in client("try", str(path), "--seed", "3", code=24)
    assert "No such file" in client("try", str(tmp_path / "none.py"), "--seed", "3", code=24)


def test_parameters_take_the_declared_kinds() -> None:
    text = WALK.read_text().replace(
        "# pause_seconds", "# rates = { default = [0.1, 0.2] }\n# exact = { default = true }\n"
        "# kind = { default = 'a', choices = ['a', 'b'] }\n# pause_seconds",
    )  # fmt: skip
    manifest = read_manifest(text)
    given = ["rates=1,2.5", "exact=false", "kind=b", "walks=20", "pause_seconds=1"]
    assert read_parameters(manifest, given) == {
        "rates": [1.0, 2.5], "exact": False, "kind": "b", "walks": 20, "pause_seconds": 1.0,
    }  # fmt: skip
    with pytest.raises(TryProblem):
        read_parameters(manifest, ["exact=maybe"])


def test_doctor() -> None:
    text = client("doctor")
    assert text.startswith("sandbox: kernel")
    assert "NOT ENFORCED" not in text
    assert text.strip().endswith("the sandbox works on this host")
    report = json.loads(client("doctor", "--json"))
    assert report["ok"] is True
    assert all(protection["enforced"] for protection in report["protections"])


def test_doctor_without_any_sandbox_says_why_and_fails() -> None:
    code = (
        "import shutil; shutil.which = lambda *_, **__: None\n"
        "from axiom_client.sandbox import landlock; landlock.abi_version = lambda: 0\n"
        "import sys; sys.argv = ['axiom-client', 'doctor']\n"
        "from axiom_client.cli.app import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 23
    assert "no Landlock" in done.stderr
    assert "bubblewrap is not installed" in done.stderr
