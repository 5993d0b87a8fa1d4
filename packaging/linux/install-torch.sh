#!/bin/sh
# Fetch torch for the packaged agent: sudo /usr/lib/axiom-client/install-torch [--cpu|--cuda]
#
# --cuda  the build for NVIDIA GPUs, about 3 GB, from PyPI; every file is checked against the hash
#         in this package
# --cpu   the build without CUDA, about 200 MB, from download.pytorch.org, since PyPI does not have
#         it; its version is pinned, its hash is not
# Without an option: --cuda if there is an NVIDIA GPU, else --cpu.
set -eu
home=/usr/lib/axiom-client
target=/usr/local/lib/axiom-client/torch
pins=/usr/share/axiom-client/agent-torch.txt
choice=${1:-}
if [ -z "$choice" ]; then
    if [ -e /dev/nvidiactl ]; then choice=--cuda; else choice=--cpu; fi
fi
wheel=$(echo "$home"/pip-*.whl) # pip, which can run from its wheel
set -- "$home/bin/python" "$wheel/pip" install --disable-pip-version-check \
    --upgrade --no-compile --target "$target"
case $choice in
    --cuda) "$@" --require-hashes --requirement "$pins" ;;
    --cpu) "$@" --index-url https://download.pytorch.org/whl/cpu \
        --extra-index-url https://pypi.org/simple "$(grep -o '^torch==[0-9.]*' "$pins")" ;;
    *) echo "usage: $0 [--cpu|--cuda]" >&2; exit 2 ;;
esac
"$home/bin/python" -c 'import torch; print("torch", torch.__version__, "is ready")'
echo "to use it: systemctl restart axiom-client"
