#!/bin/sh
# The agent's command. Root speaks for the service, and so becomes its user: what `sudo axiom-client
# attach` writes must be the service's to read. `service` alone needs root itself.
set -eu
program=/usr/lib/axiom-client/bin/axiom-client
if [ "$(id -u)" = 0 ] && [ "${1:-}" != service ] && [ -z "${AXIOM_CLIENT_DIR:-}" ]; then
    exec setpriv --reuid=axiom-client --regid=axiom-client --init-groups \
        env HOME=/var/lib/axiom-client "$program" "$@"
fi
exec "$program" "$@"
