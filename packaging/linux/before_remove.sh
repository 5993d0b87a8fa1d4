#!/bin/sh
# deb: prerm remove|upgrade; rpm: %preun 0|1. Upgrades are handled by before_install.sh.
set -e
case "${1:-}" in
    remove | 0) ;;
    *) exit 0 ;;
esac
if command -v systemctl >/dev/null; then
    if [ -d /run/systemd/system ]; then systemctl stop axiom-client; fi
    systemctl disable --quiet axiom-client || true
fi
# Python may have written caches beside the files that are about to be removed.
find /usr/lib/axiom-client -name __pycache__ -type d -prune -exec rm -rf {} +
