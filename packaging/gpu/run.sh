#!/usr/bin/env bash
# Run prove.py and benchmarks/gpu.py on a machine without network. WHEELS is a folder of wheels for
# its Python, downloaded on another machine by `pip download -c constraints.txt --only-binary=:all:`.
#   packaging/gpu/run.sh WHEELS gpu-record.json [options of benchmarks.gpu]
# The figures of the benchmark go to gpu-record-benchmark.json.
set -euo pipefail
wheels=$(realpath "$1")
record=$(realpath -m "$2")
shift 2
cd "$(dirname "$0")/../.."
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
python3 -m pip install --quiet --no-index --no-deps --no-compile --target "$site" "$wheels"/*.whl
chmod -R a+rX "$site" # the embedded PostgreSQL runs as another user when this is root
export PYTHONPATH="$PWD:$site" PYTHONDONTWRITEBYTECODE=1 OMP_NUM_THREADS=1
failed=0
python3 packaging/gpu/prove.py --json "$record" || failed=1
python3 -m benchmarks.gpu --json "${record%.json}-benchmark.json" "$@" || failed=1
exit $failed
