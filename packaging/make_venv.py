"""Makes a virtual environment with pip, also where Debian's python3 came without ensurepip.

python3 packaging/make_venv.py FOLDER

Debian and Ubuntu split ensurepip off into python3-venv, which a fresh machine may lack and an
ordinary user may not install. In that case pip's own wheel is fetched from PyPI, checked against
the hash below, and used to install itself.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
import subprocess
import sys
import tempfile
import urllib.parse
import urllib.request
import venv
from pathlib import Path

PIP_VERSION = "26.3"
PIP_SHA256 = "f3b60b20ffaadd4415ed7957212a38ac63fa4c5fa375bd0f4a797777940fad13"
INDEX_URL = "https://pypi.org/simple/pip/"  # the simple index, in HTML (PEP 503)
DOWNLOAD_TIMEOUT_SECONDS = 60


def main(folder: Path) -> None:
    with_ensurepip = importlib.util.find_spec("ensurepip") is not None
    venv.create(folder, with_pip=with_ensurepip, clear=True, symlinks=True)
    if not with_ensurepip:
        print(f"no ensurepip here; fetching pip {PIP_VERSION} from PyPI")
        install_pip(folder / "bin" / "python")


def install_pip(python: Path) -> None:
    """Let pip's wheel install itself into the environment of ``python``."""
    with tempfile.TemporaryDirectory() as scratch:
        wheel = Path(scratch) / f"pip-{PIP_VERSION}-py3-none-any.whl"
        wheel.write_bytes(fetch(wheel.name))
        subprocess.run(
            [python, wheel / "pip", "install", "--quiet", "--no-index", wheel], check=True
        )


def fetch(file_name: str) -> bytes:
    """The named file of the pinned release. Exits if its hash is not the pinned one."""
    page = download(INDEX_URL).decode()
    link = re.search(rf'href="([^"#]*/{re.escape(file_name)})[#"]', page)
    if link is None:
        sys.exit(f"{INDEX_URL} does not list {file_name}; install python3-venv and try again")
    body = download(urllib.parse.urljoin(INDEX_URL, link[1]))
    if (found := hashlib.sha256(body).hexdigest()) != PIP_SHA256:
        sys.exit(f"{file_name} has SHA-256 {found}, expected {PIP_SHA256}; not installing it")
    return body


def download(url: str) -> bytes:
    """The body at ``url``."""
    with urllib.request.urlopen(url, timeout=DOWNLOAD_TIMEOUT_SECONDS) as answer:
        body: bytes = answer.read()
    return body


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python3 packaging/make_venv.py FOLDER")
    main(Path(sys.argv[1]))
