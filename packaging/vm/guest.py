"""A virtual machine without KVM, controlled through qemu's monitor and the guest agent.

The guest agent needs neither a network nor a password. Protocols:
https://www.qemu.org/docs/master/interop/qmp-spec.html and .../interop/qemu-ga-ref.html
"""

from __future__ import annotations

import base64
import json
import os
import shlex
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from image import CHANNEL, Image

#: Emulation is some twenty times slower than the machine it runs on, and the machine may be busy.
#: ``AXIOM_PATIENCE=4`` waits four times as long.
PATIENCE = float(os.environ.get("AXIOM_PATIENCE", "1"))
BOOT_SECONDS_MAX = 600.0
COMMAND_SECONDS_MAX = 240.0
PAUSE_SECONDS_MIN, PAUSE_SECONDS_MAX = 0.2, 3.0  # between two questions to the guest
#: A fifth level of page tables only makes each miss of the emulated TLB dearer.
EMULATORS = {
    "amd64": ["qemu-system-x86_64", "-machine", "q35", "-cpu", "max,la57=off"],
    "arm64": ["qemu-system-aarch64", "-machine", "virt", "-cpu", "max,pauth-impdef=on"],
}
CONSOLES = {"amd64": "ttyS0", "arm64": "ttyAMA0"}
#: Debian 12's kernel has Landlock built in but does not start it by itself.
SECURITY_MODULES = "landlock,lockdown,yama,apparmor,bpf"
#: Page-table isolation empties the emulated TLB at each system call. What these switch off protects
#: against side channels of real processors, which no check is about.
FAST_KERNEL = "mitigations=off nokaslr audit=0"


class GuestError(RuntimeError):
    """A command in the guest failed, or the guest does not answer."""


@dataclass(frozen=True, kw_only=True)
class Finished:
    """How a command in the guest ended."""

    code: int
    out: str
    error: str


@dataclass(kw_only=True)
class Guest:
    """One virtual machine. Its disk survives a stop, so it can be started again."""

    image: Image
    folder: Path  # of its sockets and its console's log
    disk: Path
    payload: Path
    memory_mb: int = 2048
    cores: int = 2
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def console(self) -> Path:
        """The log of the guest's console since its first start."""
        return self.folder / "console.log"

    def start(self, *, network: bool = True) -> None:
        """Start it and wait until it answers; without ``network``, its network is disconnected."""
        for name in ("monitor", "agent"):
            (self.folder / name).unlink(missing_ok=True)
        with (self.folder / "qemu.log").open("ab") as log:
            self.process = subprocess.Popen(self._line(), stdout=log, stderr=log)
        if not network:
            self.cable(plugged=False)
        self.wait_for("the guest to answer", self.answers, BOOT_SECONDS_MAX)
        # Wait until the boot is complete, even if a unit failed.
        self.run("systemctl is-system-running --wait", check=False, timeout=BOOT_SECONDS_MAX)

    def run(
        self, command: str, *, check: bool = True, timeout: float = COMMAND_SECONDS_MAX
    ) -> Finished:
        """Run a shell command as root. With ``check``, any exit code but 0 raises GuestError."""
        arguments = {"path": "/bin/sh", "arg": ["-c", command], "capture-output": True}
        pid = self._ask("guest-exec", arguments)["pid"]
        status = self.wait_for(f"the end of: {command}", lambda: self._exited(pid), timeout)
        done = Finished(
            code=status.get("exitcode", 128 + status.get("signal", 0)),
            out=_text(status.get("out-data", "")), error=_text(status.get("err-data", "")),
        )  # fmt: skip
        if check and done.code:
            raise GuestError(f"{command} -> {done.code}\n{done.out}{done.error}")
        return done

    def json(self, command: str) -> Any:
        """The output of a command, decoded from JSON."""
        return json.loads(self.run(command).out)

    def write(self, path: str, text: str) -> None:
        """Write a file in the guest, replacing an old one."""
        encoded = base64.b64encode(text.encode()).decode()
        self.run(f"echo {encoded} | base64 -d > {shlex.quote(path)}")

    def answers(self) -> bool:
        """Whether the guest agent answers."""
        if self.process is not None and self.process.poll() is not None:
            raise GuestError(f"qemu ended: {(self.folder / 'qemu.log').read_text()[-2000:]}")
        try:
            self._ask("guest-ping", {}, seconds=5)
        except (OSError, GuestError):
            return False
        return True

    def wait_for(self, what: str, holds: Callable[[], Any], seconds: float) -> Any:
        """The first true value of ``holds``, tried less and less often: each try costs time too."""
        deadline = time.monotonic() + PATIENCE * seconds
        pause = PAUSE_SECONDS_MIN
        while not (value := holds()):
            if time.monotonic() > deadline:
                raise GuestError(f"waited {PATIENCE * seconds:.0f} s for {what}")
            time.sleep(pause)
            pause = min(2 * pause, PAUSE_SECONDS_MAX)
        return value

    def cable(self, *, plugged: bool) -> None:
        """Connect or disconnect the network."""
        self.monitor("set_link", {"name": "net0", "up": plugged})

    def reboot(self) -> None:
        """Reboot through systemd; returns when the guest answers again."""
        boot = self.run("cat /proc/sys/kernel/random/boot_id").out
        self.begin("reboot")
        self.wait_for("the reboot", lambda: self._booted_since(boot), BOOT_SECONDS_MAX)
        self.run("systemctl is-system-running --wait", check=False, timeout=BOOT_SECONDS_MAX)

    def begin(self, verb: str) -> None:
        """Let systemctl reboot or suspend the guest, which may be down before it answers."""
        with suppress(OSError, GuestError):
            self._ask("guest-exec", {"path": "systemctl", "arg": [verb]}, seconds=5)

    def cut_power(self) -> None:
        """Kill the virtual machine; data that the guest had not written yet is lost."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def stop(self) -> None:
        """Shut down; kill a guest that does not."""
        if self.process is None or self.process.poll() is not None:
            return
        with suppress(OSError, GuestError):  # a successful shutdown is not answered
            self._ask("guest-shutdown", {}, seconds=1)
        try:
            self.process.wait(BOOT_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self.cut_power()

    def monitor(self, command: str, arguments: dict[str, Any] | None = None) -> Any:
        """Run one command of qemu's monitor."""
        with self._connection("monitor", 60) as file:
            json.loads(file.readline())  # the greeting
            _exchange(file, "qmp_capabilities", {})
            return _exchange(file, command, arguments or {})

    def _exited(self, pid: int) -> dict[str, Any] | None:
        """The status of a command that has ended."""
        status: dict[str, Any] = self._ask("guest-exec-status", {"pid": pid})
        return status if status["exited"] else None

    def _booted_since(self, boot: str) -> bool:
        try:
            return self.answers() and self.run("cat /proc/sys/kernel/random/boot_id").out != boot
        except (OSError, GuestError):
            return False

    def _ask(self, command: str, arguments: dict[str, Any], seconds: float = 60) -> Any:
        """Run one command of the guest agent, after discarding the rest of a broken exchange."""
        token = time.monotonic_ns() % 2**31
        with self._connection("agent", seconds) as file:
            file.write(b"\xff" + json.dumps(
                {"execute": "guest-sync-delimited", "arguments": {"id": token}}
            ).encode() + b"\n")  # fmt: skip
            file.flush()
            while _after_mark(file.readline()).get("return") != token:
                pass
            return _exchange(file, command, arguments)

    def _connection(self, name: str, seconds: float) -> Any:
        """A file object of one of the two sockets; closing it ends the connection."""
        channel = socket.socket(socket.AF_UNIX)
        channel.settimeout(seconds)
        deadline = time.monotonic() + seconds
        while True:
            try:
                channel.connect(os.fspath(self.folder / name))
                break
            except (FileNotFoundError, ConnectionRefusedError, BlockingIOError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
        with channel:
            return channel.makefile("rwb")

    def _line(self) -> list[str]:
        folder, architecture = self.folder, self.image.architecture
        append = (
            f"root=/dev/vda rw console={CONSOLES[architecture]} lsm={SECURITY_MODULES} "
            f"{FAST_KERNEL} panic=-1 systemd.default_timeout_start_sec={90 * PATIENCE:.0f}"
        )
        return [
            *EMULATORS[architecture], "-accel", "tcg,thread=multi", "-smp", str(self.cores),
            "-m", str(self.memory_mb), "-nodefaults", "-display", "none",
            "-kernel", str(self.image.kernel), "-initrd", str(self.image.initrd), "-append", append,
            "-serial", f"file:{self.console}",
            # "unsafe" still hands each flush to this machine's page cache, which outlives a killed
            # emulator: what the guest has flushed survives `cut_power`.
            "-drive", f"file={self.disk},if=virtio,format=qcow2,cache=unsafe",
            "-drive", f"file={self.payload},if=virtio,format=raw,readonly=on",
            "-device", "virtio-rng-pci", "-device", "virtio-serial-pci",
            "-netdev", "user,id=net0", "-device", "virtio-net-pci,netdev=net0",
            "-chardev", f"socket,path={folder / 'agent'},server=on,wait=off,id=agent",
            "-device", f"virtserialport,chardev=agent,name={CHANNEL}",
            "-qmp", f"unix:{folder / 'monitor'},server=on,wait=off",
        ]  # fmt: skip


def _exchange(file: Any, command: str, arguments: dict[str, Any]) -> Any:
    """Send one command and return its answer; events in between are skipped."""
    file.write(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
    file.flush()
    while line := file.readline():
        answer = json.loads(line)
        if "error" in answer:
            raise GuestError(f"{command}: {answer['error']['desc']}")
        if "return" in answer:
            return answer["return"]
    raise GuestError(f"{command}: the connection ended")


def _after_mark(line: bytes) -> dict[str, Any]:
    """The answer after the byte that separates it from earlier output of the guest agent."""
    found: dict[str, Any] = json.loads(line.rpartition(b"\xff")[2] or b"{}")
    return found


def _text(data: str) -> str:
    return base64.b64decode(data).decode(errors="replace")
