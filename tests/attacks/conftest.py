"""Run attacks: scripts that try to break out, in the real sandbox and the real pool.

With AXIOM_ATTACKS_IN=bubblewrap (see `make attacks`) all attacks run in bubblewrap, which is used
on kernels without Landlock; such a kernel is simulated in the one function that checks for
Landlock. With AXIOM_ATTACKS_IN=cohort each script runs as one of two seeds of a cohort; without the
variable, attacks run both alone and so, except those that take seconds. With AXIOM_ATTACKS_IN=gpu
all attacks run with the rights of a task on an NVIDIA GPU, on this host's first GPU if it has one.
"""

from __future__ import annotations

import asyncio
import errno
import os
import textwrap
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from msgspec import structs

from axiom_client.decide.task_run import Member, TaskFinished, TaskLimits
from axiom_client.host.gpu import nvidia
from axiom_client.host.gpu.probe import GpuProbe
from axiom_client.run.spec import PlacedTask
from axiom_client.sandbox import landlock
from axiom_client.sandbox.policy import DriverAccess
from axiom_protocol.messages import GpuFacts
from tests.support.running import DEADLINE_SECONDS, LIMITS, Recorder, make_spec, script

WAY = os.environ.get("AXIOM_ATTACKS_IN", "")
IN_BUBBLEWRAP = WAY == "bubblewrap"
IN_COHORT = WAY == "cohort"
ON_GPU = WAY == "gpu"
#: In a cohort only in `make attacks`: these take seconds, most of them until the pool's next check.
SLOW = (
    "test_floods_cost_the_agent_little",
    "test_writing_without_end_to_one_small_file",
    "test_deleted_files_that_are_only_mapped",
    "test_endless_loop_with_signals_ignored",
    "test_endless_sleep_with_signals_ignored",
    "test_stopping_itself",
    "test_closing_the_channel_and_staying",
    "test_thousands_of_empty_files",
    "test_checkpoint_that_is_a_bomb",
)
#: Errors of things that the namespaces of bubblewrap hide or close.
_NOT_THERE = (errno.ENOENT, errno.ESRCH, errno.EROFS, errno.EXDEV, errno.EBUSY)
#: Errors by which the sandbox refuses; any other error means a mistake in the attack.
REFUSALS = (errno.EPERM, errno.EACCES, *(_NOT_THERE if IN_BUBBLEWRAP else ()))
NO_ERRNO = -1
SECRET_NAME, SECRET = "AXIOM_TOKEN_OF_TEST", "the agent's secret"

PRELUDE = '''
import ctypes, errno, os, platform, signal, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
X86 = platform.machine() == "x86_64"

def syscall(x86, arm, *arguments):
    """One raw system call; OSError when it fails."""
    converted = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result = libc.syscall(ctypes.c_long(x86 if X86 else arm), *converted)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result

def code(step):
    """0 when it works, else the errno of its refusal, or -1 for an error that has none."""
    try:
        step()
    except Exception as error:
        print(f"{step.__name__}: {type(error).__name__}: {error}")
        return getattr(error, "errno", None) or -1
    return 0
'''


#: The first seed attacks; the second only has to have a result.
RUN_COHORT = """
def run_cohort(tasks):
    return [run(tasks[0]), {"valid": 1, "configs_done": 1, "value": []}]
"""


class SandboxPool:
    """A pool that lives as long as the test session, and folders for the secrets of one test."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.recorder: Recorder = self.loop.run_until_complete(self._make())

    async def _make(self) -> Recorder:
        recorder = Recorder()
        recorder.pool.prewarm("numpy")  # some attacks name the zygote that others are forked from
        return recorder

    def run(self, spec: PlacedTask) -> TaskFinished:
        """One task to its end."""
        return self.loop.run_until_complete(
            asyncio.wait_for(self.recorder.finish(spec), DEADLINE_SECONDS)
        )

    def zygote_pid(self) -> int:
        """The process that forks this pool's tasks."""
        return self.recorder.pool.zygote_pids()["numpy"]

    def close(self) -> None:
        """Leave nothing running."""
        self.loop.run_until_complete(self.recorder.pool.close(0))
        self.loop.close()


@cache
def _driver() -> DriverAccess:
    """The rights of a task on this host's GPU, or on an NVIDIA GPU that it could have."""
    found = asyncio.run(GpuProbe().report()).gpus
    gpu = GpuFacts(uuid="GPU-none", name="none", memory_bytes=0, pci="0000:00:00.0")
    return nvidia.access([*found, gpu][:1])


def on_gpu_too(reason: str) -> pytest.MarkDecorator:
    """Mark an attack that a GPU task may do; ``reason`` says why this is not a way out."""
    return pytest.mark.skipif(ON_GPU, reason=f"on a GPU {reason}")


def not_in_bubblewrap(reason: str) -> pytest.MarkDecorator:
    """Mark an attack that succeeds in bubblewrap; ``reason`` says why this is not a way out."""
    return pytest.mark.skipif(IN_BUBBLEWRAP, reason=f"in bubblewrap {reason}")


@pytest.fixture(scope="session", autouse=IN_BUBBLEWRAP)
def no_landlock() -> Iterator[None]:
    """Raise the error of a kernel without Landlock."""
    with pytest.MonkeyPatch.context() as patch:
        if IN_BUBBLEWRAP:
            patch.setattr(landlock, "abi_version", lambda: 0)
        yield


@pytest.fixture(scope="session")
def sandbox_pool() -> Iterator[SandboxPool]:
    """The one real pool. The agent's environment holds a secret while its zygotes start."""
    os.environ[SECRET_NAME] = SECRET
    sandbox_pool = SandboxPool()
    yield sandbox_pool
    sandbox_pool.close()
    del os.environ[SECRET_NAME]


class Attack:
    """Run scripts against the sandbox, with files of the agent's and of other tasks around."""

    def __init__(self, sandbox_pool: SandboxPool, folder: Path, *, in_cohort: bool) -> None:
        self.sandbox_pool, self.folder = sandbox_pool, folder
        self._in_cohort = in_cohort
        self.outside = folder / "outside.txt"
        self.outside.write_text("keep out")

    def run(
        self, body: str, limits: TaskLimits = LIMITS, task_folder: Path | None = None
    ) -> TaskFinished:
        """Run a task with ``body`` after the prelude, which defines AGENT and OUTSIDE."""
        names = f"AGENT = {os.getpid()}\nOUTSIDE = {str(self.outside)!r}\n"
        source = script(PRELUDE + names + textwrap.dedent(body))
        if self._in_cohort:  # results that it forges are those of the first member
            source = source.replace("os.write(3, b'r'", "os.write(3, b'r0:'") + RUN_COHORT
        spec = make_spec(self.folder, source, limits=limits, task_folder=task_folder)
        if self._in_cohort:
            mate = make_spec(self.folder, source, seed=8)
            other = Member(task_id=mate.task_id, seed=mate.seed, folder=mate.folder)
            spec = structs.replace(spec, others=[other])
        if ON_GPU:
            spec = structs.replace(spec, device="cuda:0", driver=_driver())
        return self.sandbox_pool.run(spec)

    def repelled(
        self,
        attack: str,
        twin: str,
        *,
        refusals: tuple[int, ...] = REFUSALS,
        task_folder: Path | None = None,
    ) -> None:
        """Assert that ``attack`` is refused with one of ``refusals``, and that ``twin`` works.

        twin  a harmless counterpart of the attack
        """
        body = "".join(
            f"def {name}():\n{textwrap.indent(textwrap.dedent(text).strip(), '    ')}\n"
            for name, text in (("attack", attack), ("twin", twin))
        )
        finished = self.run(body + "value = [code(attack), code(twin)]", task_folder=task_folder)
        assert finished.outcome == "success", finished.message
        refusal, twin_code = finished.result["value"]
        assert refusal != 0, "the attack succeeded"
        assert refusal in refusals, f"it failed for another reason: {refusal}"
        assert twin_code == 0, f"the harmless twin was refused with errno {twin_code}"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run attacks alone and in a cohort, unless one way is chosen for all."""
    if not WAY and "attack" in metafunc.fixturenames and metafunc.function.__name__ not in SLOW:
        metafunc.parametrize("attack", [False, True], ids=["alone", "cohort"], indirect=True)


@pytest.fixture
def attack(request: pytest.FixtureRequest, sandbox_pool: SandboxPool, tmp_path: Path) -> Attack:
    """Runs the attacks of one test, with new folders."""
    in_cohort = getattr(request, "param", IN_COHORT)
    return Attack(sandbox_pool, tmp_path, in_cohort=in_cohort)
