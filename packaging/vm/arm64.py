"""The packaged agent on Debian for arm64: python packaging/vm/arm64.py [--json FILE]

A virtual machine of another architecture installs the package, tests its sandbox, is attacked, and
computes tasks of both environments for a real project; the same seeds on this machine must agree.
Each claim is one line of output. Needs root, qemu-system-arm and what `image` names.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

from boot import attach_and_start, doctor, purge
from checks import require
from guest import Guest
from image import debian, overlay, payload
from project import ROOT, Project
from run import Step, add_options, build_package, run
from volunteer import PAYLOAD, UNIT, Volunteer

from axiom_protocol.agreement import disagreements
from axiom_protocol.manifest import read_manifest

sys.path.insert(0, str(ROOT / "packaging"))
from build_packages import PLATFORMS

ARCHITECTURE = "arm64"
#: The newest torch whose wheel for arm64 on PyPI needs no CUDA. Another version than this machine's
#: is the harder test: replicas must agree between versions too.
TORCH = "torch==2.10.0"
#: Named one by one: pip would evaluate the conditions of requirements for this machine.
TORCH_NEEDS = (
    "filelock", "fsspec", "jinja2", "markupsafe", "mpmath", "networkx", "numpy", "sympy",
    "typing-extensions",
)  # fmt: skip
TORCH_FOLDER = "/usr/local/lib/axiom-client/torch"
SEED = 4711
#: Of each environment, a real experiment at a nominal budget that emulation finishes in minutes.
SAMPLES = {
    "tests/fixtures/experiments/short_walk.py": None,
    "experiments/rank_dynamics.py": 2.0,
}
#: Of the attacks: needs a server on the machine that is attacked.
NOT_THERE = "tests/attacks/test_current_folder.py"
TRY_SECONDS_MAX = 900.0
ATTACK_SECONDS_MAX = 900.0


def main() -> int:
    """Read the options and try every claim; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser)
    return run(prepare, STEPS, parser.parse_args())


def prepare(folder: Path, _: argparse.Namespace) -> Volunteer:
    """A machine with package, wheels and tests on a disk, and a project; neither is started."""
    image, disk = debian(ARCHITECTURE), folder / "payload.img"
    if not disk.exists():
        collect(folder / "payload")
        payload(folder / "payload", disk)
    guest = Guest(
        image=image, folder=folder, disk=overlay(image, folder / "disk.qcow2"), memory_mb=3072,
        payload=disk,
    )  # fmt: skip
    return Volunteer(guest=guest, project=Project(folder=folder / "project"))


def collect(folder: Path) -> None:
    """What the guest needs: the package, torch, pytest, the tests and the experiments."""
    (folder / "source").mkdir(parents=True)
    shutil.copyfile(build_package(ROOT, ARCHITECTURE), folder / "new.deb")
    fetch_wheels(folder / "torch", TORCH, *TORCH_NEEDS)
    fetch_wheels(folder / "tools", "pytest", dependencies=True)
    copy_tree(folder / "source")


def fetch_wheels(folder: Path, *requirements: str, dependencies: bool = False) -> None:
    """Unpack wheels for the guest's Python and machine into a folder that can be imported from."""
    platforms = [word for name in PLATFORMS[ARCHITECTURE] for word in ("--platform", name)]
    line: list[str | Path] = [
        sys.executable, "-P", "-m", "pip", "--disable-pip-version-check", "install", "--quiet",
        "--only-binary=:all:", "--no-compile", "--target", folder,
        "--python-version", "3.11", "--implementation", "cp", *platforms, *requirements,
    ]  # fmt: skip
    if not dependencies:
        line += ["--no-deps"]
    subprocess.run(line, check=True)


def copy_tree(folder: Path) -> None:
    """What git knows of the tests and experiments, as it is here."""
    names = subprocess.run(
        ["git", "ls-files", "tests", "experiments"], cwd=ROOT, capture_output=True, text=True,
        check=True,
    ).stdout.splitlines()  # fmt: skip
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, folder / name)


def machine(volunteer: Volunteer) -> str:
    """Without these, nothing below can hold."""
    guest = volunteer.guest
    require(guest.run("uname -m").out == "aarch64\n")
    modules = guest.run("cat /sys/kernel/security/lsm").out
    require("landlock" in modules, modules)
    require("Seccomp_filters" in guest.run("cat /proc/self/status").out, "no seccomp filters")
    return guest.run("uname -r").out.strip()


def install(volunteer: Volunteer) -> str:
    """The package by apt, torch's wheels as install-torch would put them."""
    guest = volunteer.guest
    volunteer.install("new.deb")
    guest.run(f"mkdir -p {TORCH_FOLDER}; cp -r {PAYLOAD}/torch/. {TORCH_FOLDER}", timeout=900)
    found = guest.run(
        "/usr/lib/axiom-client/bin/python -c 'import torch; print(torch.__version__)'", timeout=900
    )
    return f"torch {found.out.strip()}"


def compute(volunteer: Volunteer) -> str:
    """Two tasks of each environment, through the whole agent and the real server."""
    project = volunteer.project
    for name, budget in SAMPLES.items():
        project.publish(ROOT / name)
        chosen = [] if budget is None else ["--budget", str(budget)]
        project.staff("deploy", Path(name).stem, "--count", "2", *chosen)
    volunteer.sync()
    for name in SAMPLES:
        volunteer.wait_until_reported(Path(name).stem, 2)
    outcomes = {task["outcome"] for task in project.tasks()}
    require(outcomes == {"success"}, project.tasks())
    return f"{len(project.tasks())} results"


def agree(name: str, volunteer: Volunteer) -> str:
    """The same seed on both machines, by the rule that compares replicas."""
    volunteer.mount_payload()
    volunteer.guest.run(f"systemctl stop {UNIT}")
    words = ["try", "--seed", str(SEED), "--json"]
    if SAMPLES[name] is not None:
        words += ["--budget", str(SAMPLES[name])]
    here = json.loads(
        subprocess.run(
            [Path(sys.executable).parent / "axiom-client", *words, ROOT / name],
            capture_output=True, text=True, check=True,
        ).stdout
    )  # fmt: skip
    line = f"axiom-client {' '.join(words)} {PAYLOAD}/source/{name}"
    there = json.loads(volunteer.guest.run(line, timeout=TRY_SECONDS_MAX).out)
    manifest = read_manifest((ROOT / name).read_text())
    found = disagreements(manifest, _result(here), _result(there))
    require(not found, found)
    return f"{len(_result(here))} fields"


def attacks(volunteer: Volunteer) -> str:
    """The tests of the sandbox, by pytest in the guest as the service's user."""
    volunteer.mount_payload()
    environment = f"PYTHONPATH={PAYLOAD}/tools PYTHONDONTWRITEBYTECODE=1 HOME=/var/lib/{UNIT}"
    line = (
        f"cd {PAYLOAD}/source && setpriv --reuid={UNIT} --regid={UNIT} --init-groups "
        f"env {environment} /usr/lib/axiom-client/bin/python -m pytest -q -p no:cacheprovider "
        f"--basetemp=/var/lib/{UNIT}/attacks --ignore={NOT_THERE} tests/attacks"
    )
    done = volunteer.guest.run(line, check=False, timeout=ATTACK_SECONDS_MAX)
    require(done.code == 0, (done.out + done.error)[-3000:])
    return done.out.strip().splitlines()[-1]


def _result(tried: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = tried["result"]
    return found


#: In the order in which they are tried.
STEPS: list[Step] = [
    ("the machine is an arm64 with Landlock and seccomp", machine),
    ("the package installs with torch beside it", install),
    ("doctor finds every part of the sandbox enforced", doctor),
    ("a volunteer attaches by https and starts the service", attach_and_start),
    ("tasks of both environments are computed and reported", compute),
    *((f"{Path(name).stem} agrees with this machine's result", partial(agree, name))
      for name in SAMPLES),
    ("no attack gets out of the sandbox", attacks),
    ("purge leaves no file, user, unit or process", purge),
]  # fmt: skip

if __name__ == "__main__":
    sys.exit(main())
