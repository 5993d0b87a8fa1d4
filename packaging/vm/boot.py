"""The packaged agent on a Debian that really boots: python packaging/vm/boot.py [--json FILE]

A virtual machine with systemd as its first process installs the package of 0.1.0, attaches to a
real project by https and upgrades in mid-task. Then its agent is stopped, killed and hung, the
machine is rebooted, cut from power and from the network, filled and suspended, and the package is
purged. Each claim is one line of output; one that fails does not hide the next. Needs root,
qemu-system-x86 and what `image` names; no KVM.

To try one check again: run with --folder DIR, and then with --folder DIR --only FUNCTION. On a busy
machine, AXIOM_PATIENCE=4 waits four times as long.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from checks import require
from guest import Guest
from image import debian, overlay, payload
from project import ROOT, Project
from run import Step, add_options, build_package, run
from volunteer import UNIT, Volunteer

#: The commit whose package is upgraded from.
OLD_COMMIT = "283ce66"
EXPOSURE_MAX = 3.0  # of `systemd-analyze security`, whose scale ends at 10
EXIT_BAD_CONFIG = 3
ARCHITECTURE = "amd64"
SLEEP_SECONDS = 60.0


def main() -> int:
    """Read the options and try every claim; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser)
    parser.add_argument("--deb", type=Path, help="the package to try; otherwise it is built")
    parser.add_argument("--old-deb", type=Path, help="the package of 0.1.0; otherwise it is built")
    return run(prepare, STEPS, parser.parse_args())


def prepare(folder: Path, options: argparse.Namespace) -> Volunteer:
    """A machine with both packages on a disk of their own, and a project; neither is started."""
    image, disk = debian(ARCHITECTURE), folder / "packages.img"
    if not disk.exists():
        packages = folder / "packages"
        packages.mkdir()
        shutil.copyfile(options.deb or build_package(ROOT, ARCHITECTURE), packages / "new.deb")
        old = options.old_deb or old_package(image.disk.parent.parent)
        shutil.copyfile(old, packages / "old.deb")
        payload(packages, disk)
    guest = Guest(
        image=image, folder=folder, disk=overlay(image, folder / "disk.qcow2"), payload=disk
    )
    return Volunteer(guest=guest, project=Project(folder=folder / "project"))


def old_package(cache: Path) -> Path:
    """The deb of 0.1.0, built once from this repository's history and kept beside the images."""
    kept = cache / f"axiom-client-{OLD_COMMIT}.deb"
    if not kept.exists():
        with tempfile.TemporaryDirectory(prefix="axiom-old-") as name:
            archive = subprocess.run(
                ["git", "archive", OLD_COMMIT], cwd=ROOT, check=True, capture_output=True
            ).stdout
            subprocess.run(["tar", "x", "-C", name], input=archive, check=True)
            shutil.copyfile(build_package(Path(name), ARCHITECTURE), kept)
    return kept


def first_process(volunteer: Volunteer) -> str:
    """Without these, nothing below can hold."""
    guest = volunteer.guest
    require(guest.run("cat /proc/1/comm").out == "systemd\n")
    modules = guest.run("cat /sys/kernel/security/lsm").out
    require("landlock" in modules, modules)
    return guest.run("uname -r; systemctl --version | head -1").out.replace("\n", ", ").strip(", ")


def install(volunteer: Volunteer) -> None:
    """Before it is attached, the service is enabled, and a start is skipped without a failure.

    Under the unit of 0.1.0 the sandbox's self-test failed, for want of a /tmp that can be written
    and of processes that can be seen, so no task ran. A drop-in mends that until the upgrade.
    """
    guest = volunteer.guest
    volunteer.install("old.deb")
    require(guest.run(f"systemctl is-enabled {UNIT}").out == "enabled\n")
    guest.run(f"systemctl start {UNIT}")
    seen = [volunteer.unit(name) for name in ("ActiveState", "ConditionResult")]
    require(seen == ["inactive", "no"], seen)
    volunteer.drop_in("PrivateTmp=yes\nProtectProc=default")


def attach_and_start(volunteer: Volunteer) -> str:
    """With the project's certificate among those that the system trusts."""
    guest = volunteer.guest
    volunteer.trust_project()
    volunteer.attach()
    volunteer.start()
    owner = guest.run("stat -c %U:%a /var/lib/axiom-client/identity.json").out.strip()
    require(owner == "axiom-client:600", owner)
    return volunteer.unit("StatusText")


def upgrade(volunteer: Volunteer) -> str:
    """The package drains the old agent; its running task is taken over or given back."""
    guest = volunteer.guest
    volunteer.work("upgraded", 120)  # apt takes half a minute until it drains the agent
    version = guest.run("dpkg-query -W -f '${Version}' axiom-client").out
    volunteer.drop_in("")
    volunteer.install("new.deb")
    require(volunteer.active(), volunteer.unit("ActiveState"))
    volunteer.wait_until_reported("upgraded", 1)
    return f"{version} -> " + guest.run("dpkg-query -W -f '${Version}' axiom-client").out


def doctor(volunteer: Volunteer) -> str:
    """Run as the service's user, as the command does by itself."""
    done = volunteer.guest.run("axiom-client doctor", check=False)
    require(done.code == 0, done.out + done.error)
    return f"{len(done.out.splitlines())} lines"


def security(volunteer: Volunteer) -> str:
    """Of the unit as it runs."""
    line = volunteer.guest.run(f"systemd-analyze security --no-pager {UNIT} | tail -1").out
    found = re.search(r"level for \S+: ([\d.]+)", line)
    assert found is not None, line
    exposure = float(found[1])
    require(exposure < EXPOSURE_MAX, line)
    return f"{exposure}"


def reload(volunteer: Volunteer) -> None:
    """One core less, by `systemctl reload`."""
    guest = volunteer.guest
    before = volunteer.unit("MainPID")
    guest.write("/etc/axiom-client/config.toml", "[cpu]\ncores = 1\n")
    guest.run(f"systemctl reload {UNIT}")
    guest.wait_for("the new limit", lambda: "cpu.cores is 1" in json.dumps(volunteer.status()), 60)
    require(volunteer.unit("MainPID") == before, "another process")


def refused_reload(volunteer: Volunteer) -> None:
    """It says so and keeps the configuration it has."""
    guest = volunteer.guest
    before = volunteer.unit("MainPID")
    guest.write("/etc/axiom-client/config.toml", '[cpu]\ncores = "many"\n')
    guest.run(f"systemctl reload {UNIT}", check=False)
    guest.wait_for("the refusal", lambda: "refused" in volunteer.journal("-n 20"), 60)
    require(volunteer.unit("MainPID") == before, "another process")
    guest.write("/etc/axiom-client/config.toml", "")
    guest.run(f"systemctl reload {UNIT}")


def stop_and_start(volunteer: Volunteer) -> None:
    """SIGTERM to the agent alone; the task writes a checkpoint."""
    volunteer.work("stopped", 60)
    volunteer.guest.run(f"systemctl stop {UNIT}")
    require(volunteer.processes() == [], volunteer.processes())
    volunteer.start()
    volunteer.wait_until_reported("stopped", 1)


def crash(volunteer: Volunteer) -> str:
    """kill -9 of the main process in mid-task."""
    guest = volunteer.guest
    volunteer.drop_in("RestartSec=3")
    volunteer.work("crashed", 45)
    restarts, pid = int(volunteer.unit("NRestarts")), volunteer.unit("MainPID")
    guest.run(f"kill -9 {pid}")
    guest.wait_for(
        "the restart",
        lambda: volunteer.active() and int(volunteer.unit("NRestarts")) > restarts, 240,
    )  # fmt: skip
    volunteer.wait_until_reported("crashed", 1)
    volunteer.drop_in("")
    return f"NRestarts {volunteer.unit('NRestarts')}"


def watchdog(volunteer: Volunteer) -> str:
    """A stopped process is a hang that no code can hide."""
    guest = volunteer.guest
    volunteer.drop_in("WatchdogSec=40\nRestartSec=3")
    guest.run(f"systemctl restart {UNIT}")
    pid = volunteer.unit("MainPID")
    time.sleep(50)
    require(volunteer.unit("MainPID") == pid, "the watchdog ended an agent that was well")
    guest.run(f"kill -STOP {pid}")
    guest.wait_for(
        "another process", lambda: volunteer.active() and volunteer.unit("MainPID") != pid, 300
    )
    require("Watchdog timeout" in volunteer.journal(), volunteer.journal("-n 20"))
    volunteer.drop_in("")
    return "after a stop by SIGSTOP"


def bad_config(volunteer: Volunteer) -> None:
    """RestartPreventExitStatus holds for what a restart cannot mend."""
    guest = volunteer.guest
    volunteer.drop_in("RestartSec=1")
    guest.run(f"systemctl stop {UNIT}")
    guest.write("/etc/axiom-client/config.toml", '[cpu]\ncores = "many"\n')
    guest.run(f"systemctl start {UNIT}", check=False)
    guest.wait_for("the failure", lambda: volunteer.unit("ActiveState") == "failed", 120)
    time.sleep(20)
    seen = [volunteer.unit(name) for name in ("ActiveState", "ExecMainStatus", "NRestarts")]
    require(seen == ["failed", str(EXIT_BAD_CONFIG), "0"], seen)
    guest.write("/etc/axiom-client/config.toml", "")
    volunteer.drop_in("")
    volunteer.start()


def journal_lines(volunteer: Volunteer) -> str:
    """Each with a priority; what is an error is one there too."""
    lines = [json.loads(line) for line in volunteer.journal("-o json").splitlines()]
    own = [line for line in lines if line.get("_COMM", "").startswith(("axiom", "python"))]
    require(own, "no line of the agent")
    levels = {line.get("PRIORITY") for line in own}
    require(levels - {"6"}, f"only level 6: {levels}")
    said = "\n".join(str(line.get("MESSAGE")) for line in own)
    require("Traceback" not in said, said[-2000:])
    return f"{len(own)} lines, levels {', '.join(sorted(str(level) for level in levels))}"


def reboot(volunteer: Volunteer) -> None:
    """As a person reboots: systemd stops everything in order."""
    guest = volunteer.guest
    volunteer.work("rebooted", 60)
    guest.reboot()
    guest.wait_for("the service", volunteer.active, 300)
    volunteer.wait_until_reported("rebooted", 1)
    seen = volunteer.project.reported("rebooted")
    require(seen == 1, f"reported {seen} times")


def power_cut(volunteer: Volunteer) -> str:
    """The virtual machine is killed while tasks start, checkpoint and end."""
    cut_in_mid_work(volunteer, "cut", 8)
    volunteer.wait_until_reported("cut", 8)
    check_journal_file(volunteer)
    return "8 results"


def late_network(volunteer: Volunteer) -> str:
    """The cable is plugged in after the boot that follows another power cut."""
    guest = volunteer.guest
    cut_in_mid_work(volunteer, "late", 4, network=False)
    problem = guest.wait_for("the problem", lambda: volunteer.status().get("problem"), 120)
    guest.cable(plugged=True)
    guest.wait_for("the address", lambda: "10.0.2." in guest.run("ip -4 -br addr").out, 120)
    volunteer.sync()
    volunteer.wait_until_reported("late", 4)
    check_journal_file(volunteer)
    return f"before: {problem}"


def cut_in_mid_work(volunteer: Volunteer, name: str, count: int, *, network: bool = True) -> None:
    """Kill the machine when a quarter of ``count`` workunits is reported, and start it again."""
    volunteer.project.publish_walk(name, 3)
    volunteer.project.deploy(name, count)
    volunteer.sync()
    volunteer.wait_until_reported(name, count // 4)
    volunteer.guest.cut_power()
    volunteer.guest.start(network=network)
    volunteer.guest.wait_for("the service", volunteer.active, 400)


def check_journal_file(volunteer: Volunteer) -> None:
    """The agent has not put its journal aside as damaged."""
    said = volunteer.journal()
    require("put aside" not in said, said[-2000:])


def full_disk(volunteer: Volunteer) -> str:
    """A file of somebody else fills the disk of the agent's state."""
    guest = volunteer.guest
    pid = volunteer.unit("MainPID")
    guest.run("fallocate -l $(($(df -B1 --output=avail / | tail -1) - 4096)) /filler || true")
    volunteer.project.publish_walk("full", 0)
    volunteer.project.deploy("full", 1)
    volunteer.sync()
    time.sleep(45)
    seen = volunteer.status()
    require(volunteer.active() and volunteer.unit("MainPID") == pid, "the agent ended")
    guest.run("rm /filler")
    volunteer.sync()
    volunteer.wait_until_reported("full", 1)
    return str(seen.get("reason") or seen.get("problem") or seen)


def logind_idle(volunteer: Volunteer) -> str:
    """logind lists no session here, so the computer is not in use."""
    sessions = volunteer.guest.run("loginctl list-sessions --no-legend | wc -l").out.strip()
    volunteer.guest.run("axiom-client config set run.while_in_use false")
    time.sleep(20)
    seen = volunteer.status()
    require(seen.get("state") == "running", seen)
    volunteer.guest.run("axiom-client config set run.while_in_use true")
    return f"{sessions} sessions, state {seen['state']}"


def suspend(volunteer: Volunteer) -> str:
    """To memory for a minute, in mid-task; qemu's monitor wakes it."""
    guest = volunteer.guest
    began = time.monotonic()
    states = guest.run("cat /sys/power/state").out.split()
    require(states, "this virtual machine cannot sleep")
    volunteer.work("suspended", 30)
    guest.begin("suspend")
    guest.wait_for("the sleep", lambda: guest.monitor("query-status")["status"] == "suspended", 120)
    time.sleep(SLEEP_SECONDS)
    guest.monitor("system_wakeup")
    guest.wait_for("the guest to answer", guest.answers, 120)
    volunteer.wait_until_reported("suspended", 1)
    (task,) = volunteer.project.tasks("suspended")
    awake = time.monotonic() - began - SLEEP_SECONDS
    require(task["elapsed_seconds"] <= awake, f"{task['elapsed_seconds']} s, awake {awake:.0f} s")
    return f"states {' '.join(states)}; {task['elapsed_seconds']:.0f} s of {awake:.0f} s awake"


def nothing_lost(volunteer: Volunteer) -> str:
    """For each experiment the server has as many results as it made workunits."""
    project = volunteer.project
    wanted = project.deployed
    seen = {name: project.reported(name) for name in wanted}
    require(seen == wanted, seen)
    return f"{sum(seen.values())} results"


def purge(volunteer: Volunteer) -> None:
    """While the agent runs."""
    guest = volunteer.guest
    guest.run(f"DEBIAN_FRONTEND=noninteractive apt-get purge -y -q {UNIT}", timeout=600)
    left = guest.run(
        "find / -xdev -name '*axiom*' -not -path '/proc/*' -not -path '/mnt/*'"
        " -not -path '/var/log/journal/*' -not -path '/var/lib/dpkg/*'"
    ).out
    require(not left, left)
    require(guest.run(f"getent passwd {UNIT}", check=False).code == 2, "the user is still there")
    require(guest.run(f"systemctl cat {UNIT}", check=False).code, "the unit is still there")
    require("axiom" not in guest.run("ps -eo args=").out, "a process is still there")


#: Each in an order in which it finds what it needs.
STEPS: list[Step] = [
    ("systemd is the first process, and Landlock is on", first_process),
    ("the package of 0.1.0 installs; its service is enabled and waits to be attached", install),
    ("a volunteer attaches by https and starts the service", attach_and_start),
    ("an upgrade from 0.1.0 in mid-task drains, goes on, and loses nothing", upgrade),
    ("doctor finds every part of the sandbox enforced", doctor),
    (f"systemd-analyze security rates the unit below {EXPOSURE_MAX}", security),
    ("reload takes up a changed configuration without a restart", reload),
    ("a broken configuration is refused at reload, and the agent runs on", refused_reload),
    ("stop leaves no process, and the task goes on from its checkpoint", stop_and_start),
    ("a killed agent is started again, and the task ends once", crash),
    ("a hung agent is ended by the watchdog and started again", watchdog),
    ("a bad configuration ends the service with code 3, without a restart", bad_config),
    ("the journal holds the agent's lines, with levels and without tracebacks", journal_lines),
    ("a reboot in mid-task loses nothing", reboot),
    ("a power cut in mid-write leaves a journal that goes on", power_cut),
    ("a network that comes late, after another power cut, is no failure", late_network),
    ("a full disk stops work, not the agent, and work goes on when there is room", full_disk),
    ("with nobody signed in, tasks run that may not run while the computer is in use", logind_idle),
    ("a suspended host continues, and its sleep counts as no task's time", suspend),
    ("every workunit was reported once", nothing_lost),
    ("purge leaves no file, user, unit or process", purge),
]

if __name__ == "__main__":
    sys.exit(main())
