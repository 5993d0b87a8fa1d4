#!/bin/sh
# The agent's command. When root calls it, it runs as the service's user, so that the service can read
# what `sudo axiom-client attach` writes. Only the subcommand `service` needs root.
set -eu
program=/usr/lib/axiom-client/bin/axiom-client
if [ "$(id -u)" = 0 ] && [ "${1:-}" != service ] && [ -z "${AXIOM_CLIENT_DIR:-}" ]; then
    exec setpriv --reuid=axiom-client --regid=axiom-client --init-groups \
        env HOME=/var/lib/axiom-client "$program" "$@"
fi
exec "$program" "$@"
