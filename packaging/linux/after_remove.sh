#!/bin/sh
# deb: postrm remove|purge|upgrade; rpm: %postun 0|1. A purge deletes everything. rpm has no purge, so
# its state folders stay until somebody deletes them.
set -e
case "${1:-}" in
    purge)
        rm -rf /var/lib/axiom-client /var/cache/axiom-client /var/log/axiom-client \
            /etc/axiom-client /etc/systemd/system/axiom-client.service.d \
            /usr/local/lib/axiom-client
        if getent passwd axiom-client >/dev/null; then userdel axiom-client; fi
        if getent group axiom-client >/dev/null; then groupdel axiom-client; fi
        ;;
    remove | 0) rm -rf /usr/lib/axiom-client ;;
esac
if [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
