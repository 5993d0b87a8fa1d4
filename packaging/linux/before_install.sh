#!/bin/sh
# deb: preinst install|upgrade; rpm: %pre 1|2. Before an upgrade the agent drains: it takes no new
# tasks and has a minute to finish running ones; the others write checkpoints when the service stops.
set -e
drain_seconds=${AXIOM_DRAIN_SECONDS:-60}
case "${1:-}" in
    upgrade | 2) ;;
    *) exit 0 ;;
esac
[ -d /run/systemd/system ] && systemctl --quiet is-active axiom-client || exit 0
# An agent that does not answer is not drained: it is stopped, by force if need be.
if axiom-client status --json | grep -q '"state": *"running"' &&
    axiom-client drain --reason "the package is being upgraded"; then
    touch /run/axiom-client.upgrade # tells after_install.sh to end this drain
    while [ "$drain_seconds" -gt 0 ] &&
        ! axiom-client status --json | grep -q '"tasks_running": *0'; do
        sleep 1
        drain_seconds=$((drain_seconds - 1))
    done
fi
systemctl stop axiom-client
touch /run/axiom-client.restart
