#!/usr/bin/env bash
# Run prove.py on a machine without network. WHEELS is a folder of wheels for its Python, downloaded
# on another machine by `pip download -c constraints.txt --only-binary=:all: ...`.
#   packaging/gpu/run.sh WHEELS gpu-record.json
set -euo pipefail
wheels=$(realpath "$1")
record=$(realpath -m "$2")
cd "$(dirname "$0")/../.."
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
python3 -m pip install --quiet --no-index --no-deps --no-compile --target "$site" "$wheels"/*.whl
chmod -R a+rX "$site" # the embedded PostgreSQL runs as another user when this is root
PYTHONPATH="$PWD:$site" PYTHONDONTWRITEBYTECODE=1 OMP_NUM_THREADS=1 \
	python3 packaging/gpu/prove.py --json "$record"
