"""The command line and the complete environment of a zygote, a cold child or a sandbox trial."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping

from axiom_client.sandbox.roots import import_paths
from axiom_client.system.child_environment import child_environment

#: Variables that are passed on: they say where libraries are found and which processor instructions
#: they use. Everything else in the volunteer's environment may hold secrets and is dropped.
_PASSED_ON = (
    "LD_LIBRARY_PATH", "OPENBLAS_CORETYPE", "NPY_DISABLE_CPU_FEATURES", "ATEN_CPU_CAPABILITY",
    "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS", "NVPL_BLAS_DEBUG_CPU_TYPE", "SYSTEMROOT",
)  # fmt: skip

_FIXED = {
    "LANG": "C.UTF-8",
    "TZ": "UTC",
    "PYTHONHASHSEED": "0",  # sets of strings iterate in the same order in a forked and a cold child
    "PYTHONDONTWRITEBYTECODE": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "VECLIB_MAXIMUM_THREADS": "1",
    "NUMEXPR_NUM_THREADS": "1",
    "TORCHDYNAMO_DISABLE": "1",  # compiling needs a compiler, which the sandbox does not offer
}

#: The agent's own packages come before all that site-packages names: an editable install there may
#: be of another checkout, whose files the sandbox does not open.
_START = (
    "import sys, json; paths, arguments = json.loads(sys.argv[1]); "
    "site = [i for i, p in enumerate(sys.path) if p.endswith(('site-packages', 'dist-packages'))]; "
    "sys.path[(site or [len(sys.path)])[0]:0] = paths; "
)


def environment(gpus: Mapping[str, str]) -> dict[str, str]:
    """The environment of a process that will run experiments.

    ``gpus`` are the variables that make its own GPUs visible, or hide all GPUs.
    """
    known = child_environment(**gpus)
    passed = {name: known[name] for name in (*_PASSED_ON, *gpus) if name in known}
    return {**_FIXED, **passed}


def command(module: str, *arguments: str | int | bool) -> list[str]:
    """Call ``module.main(*arguments)`` in an interpreter without user site or current folder."""
    parameters = json.dumps([import_paths(), arguments])
    code = f"{_START}from {module} import main; main(*arguments)"
    return [_interpreter(), "-P", "-s", "-c", code, parameters]


def _interpreter() -> str:
    """This interpreter. On Windows that of a virtual environment only starts another one, which a
    job of one process forbids; the paths above lead to the environment's packages."""
    if sys.platform == "win32":
        return str(getattr(sys, "_base_executable", sys.executable))
    else:  # noqa: RET505  mypy skips a branch, not what follows one
        return sys.executable
