"""A small Debian system on a disk image, made once and kept outside the tree.

The images lie in ``$AXIOM_IMAGES``, by default ``~/.cache/axiom/images``. Each is named by a hash
of what it is made from, so that a change of it makes a new one. Needs root, and Debian's
mmdebstrap, e2fsprogs and qemu-utils; for another architecture also arch-test, binfmt-support and
qemu-user-static.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

SUITE = "bookworm"
PACKAGES = (
    "systemd-sysv", "dbus", "libpam-systemd", "udev", "kmod", "procps", "iproute2", "sudo",
    "python3", "ca-certificates", "qemu-guest-agent",
)  # fmt: skip
NATIVE = {"x86_64": "amd64", "aarch64": "arm64"}  # Debian's names
BINFMT = Path("/proc/sys/fs/binfmt_misc")
KERNELS = {"amd64": "linux-image-amd64", "arm64": "linux-image-arm64"}
CONFIGURED = 2  # raised when `_configure` changes
#: What the kernel needs to reach its disk; Debian's own choice takes long to unpack in an emulator.
INITRD_MODULES = ("virtio_pci", "virtio_blk", "crc32c_generic", "ext4")
#: Units of no use to any check, masked because each costs an emulated boot some seconds.
UNNEEDED_UNITS = (
    "apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer",
    "e2scrub_reap.service", "fstrim.timer", "getty@tty1.service", "modprobe@configfs.service",
    "modprobe@drm.service", "modprobe@fuse.service", "serial-getty@ttyAMA0.service",
    "serial-getty@ttyS0.service", "sys-kernel-config.mount", "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount", "systemd-binfmt.service",
)  # fmt: skip
DISK_BYTES = 6 * 1024**3  # sparse
NETWORK = "[Match]\nName=en* eth*\n[Network]\nDHCP=yes\nIPv6AcceptRA=no\n"
#: The guest agent's channel, which works with or without a network.
CHANNEL = "org.qemu.guest_agent.0"


@dataclass(frozen=True, kw_only=True)
class Image:
    """The files from which a virtual machine starts; they are never changed."""

    architecture: str  # Debian's name of it
    disk: Path  # raw ext4, without a partition table
    kernel: Path
    initrd: Path


def debian(architecture: str) -> Image:
    """The image of this architecture, made if there is none yet (minutes)."""
    folder = _cache() / f"debian-{SUITE}-{architecture}-{_recipe_hash()}"
    image = Image(
        architecture=architecture, disk=folder / "disk.img",
        kernel=folder / "vmlinuz", initrd=folder / "initrd.img",
    )  # fmt: skip
    if not folder.exists():
        _make(image, folder)
    return image


def payload(source: Path, disk: Path) -> Path:
    """A read-only ext4 image of a folder, to be attached to a virtual machine."""
    size = sum(path.stat().st_size for path in source.rglob("*") if path.is_file())
    _make_filesystem(source, disk, int(size * 1.3) + 32 * 1024**2)
    return disk


def overlay(image: Image, disk: Path) -> Path:
    """A disk that starts as the image and keeps its own changes; one that exists is kept."""
    paths = [str(image.disk), str(disk)]
    line = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", *paths]
    if not disk.exists():
        subprocess.run(line, check=True)
    return disk


def _cache() -> Path:
    default = Path.home() / ".cache" / "axiom" / "images"
    return Path(os.environ.get("AXIOM_IMAGES", default))


def _recipe_hash() -> str:
    recipe = (
        SUITE, PACKAGES, KERNELS, DISK_BYTES, NETWORK, INITRD_MODULES, UNNEEDED_UNITS, CONFIGURED,
    )  # fmt: skip
    return hashlib.sha256(repr(recipe).encode()).hexdigest()[:12]


def _make(image: Image, folder: Path) -> None:
    """Create the image in a temporary folder, and rename it when it is complete."""
    for program in ("mmdebstrap", "mke2fs", "qemu-img"):
        if shutil.which(program) is None:
            raise SystemExit(
                f"{program} is missing: apt-get install mmdebstrap e2fsprogs qemu-utils"
            )
    _check_architecture(image.architecture)
    print(f"== making {folder.name} (once; some minutes)", flush=True)
    unfinished = folder.with_suffix(".unfinished")
    _remove(unfinished)
    root = unfinished / "root"
    unfinished.mkdir(parents=True)
    _install_system(root, image.architecture)
    _configure(root)
    for name in ("vmlinuz", "initrd.img"):
        shutil.copyfile((root / name).resolve(), unfinished / name)
    _make_filesystem(root, unfinished / "disk.img", DISK_BYTES)
    _remove(root)
    unfinished.rename(folder)


def _check_architecture(architecture: str) -> None:
    """Make sure that this machine runs programs of an architecture, as the packages' scripts need.

    Without systemd, nothing mounts binfmt_misc or tells it of the interpreters.
    """
    if _runs(architecture):
        return
    if not (BINFMT / "register").exists():
        subprocess.run(["mount", "-t", "binfmt_misc", "binfmt_misc", BINFMT], check=False)
    if shutil.which("update-binfmts") is not None:
        subprocess.run(["update-binfmts", "--enable"], check=False)
    if not _runs(architecture):
        raise SystemExit(
            f"this machine runs no programs of {architecture}, which making its image needs: "
            "apt-get install arch-test binfmt-support qemu-user-static"
        )


def _runs(architecture: str) -> bool:
    if architecture == NATIVE.get(platform.machine()):
        return True
    if shutil.which("arch-test") is None:
        return False
    done = subprocess.run(["arch-test", architecture], capture_output=True, check=False)
    return done.returncode == 0


def _remove(folder: Path) -> None:
    """Delete a folder; what a broken-off mmdebstrap left mounted in it is unmounted first."""
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    points = [Path(line.split()[4]) for line in mounts]
    for point in sorted((p for p in points if p.is_relative_to(folder)), reverse=True):
        subprocess.run(["umount", point], check=True)
    if folder.exists():
        shutil.rmtree(folder)


def _install_system(root: Path, architecture: str) -> None:
    packages = (*PACKAGES, KERNELS[architecture])
    tools = "$1/etc/initramfs-tools"
    small_initrd = (
        f'mkdir -p "{tools}/conf.d" && echo MODULES=list > "{tools}/conf.d/small"'
        f' && printf "%s\\n" {" ".join(INITRD_MODULES)} > "{tools}/modules"'
    )
    subprocess.run(
        [
            "mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", "--skip=output/dev",
            f"--architectures={architecture}", f"--include={','.join(packages)}",
            f"--setup-hook={small_initrd}", SUITE, root,
        ],
        check=True,
    )  # fmt: skip


def _configure(root: Path) -> None:
    """A host name, a network by DHCP, the journal on the disk, no password for anybody."""
    (root / "etc/hostname").write_text("volunteer\n")
    (root / "etc/hosts").write_text("127.0.0.1 localhost volunteer\n::1 localhost\n")
    (root / "etc/fstab").write_text("/dev/vda / ext4 errors=remount-ro 0 1\n")
    (root / "etc/systemd/network/wired.network").write_text(NETWORK)
    (root / "var/log/journal").mkdir(exist_ok=True)
    systemctl = ["systemctl", "--quiet", f"--root={root}"]
    enabled = ("systemd-networkd", "systemd-networkd-wait-online")
    subprocess.run([*systemctl, "enable", *enabled], check=True)
    subprocess.run([*systemctl, "mask", *UNNEEDED_UNITS], check=True)
    subprocess.run([*systemctl, "set-default", "multi-user.target"], check=True)
    for name in ("etc/.updated", "var/.updated"):  # else the first boot builds caches of /usr
        (root / name).touch()


def _make_filesystem(source: Path, disk: Path, size_bytes: int) -> None:
    disk.unlink(missing_ok=True)
    with disk.open("wb") as file:
        file.truncate(size_bytes)
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", "-d", source, disk], check=True)
