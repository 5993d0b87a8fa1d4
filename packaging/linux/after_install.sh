#!/bin/sh
# deb: postinst configure [OLD]; rpm: %post 1|2.
set -e
case "${1:-}" in
    configure | 1 | 2) ;;
    *) exit 0 ;;
esac
user=axiom-client
if ! getent group $user >/dev/null; then groupadd --system $user; fi
if ! getent passwd $user >/dev/null; then
    useradd --system --gid $user --home-dir /var/lib/$user --no-create-home \
        --shell /usr/sbin/nologin --comment "Axiom volunteer computing agent" $user
fi
# On distributions that have these groups, their members may open GPUs.
for group in render video; do
    if getent group $group >/dev/null; then usermod --append --groups $group $user; fi
done
install -d -o $user -g $user -m 0700 /var/lib/$user
install -d -o $user -g $user -m 0755 /var/cache/$user /var/log/$user /etc/$user
# The user owns the folder and may have put a symbolic or hard link to another user's file there.
find /etc/$user -maxdepth 1 -name config.toml -type f -links 1 -user root \
    -exec chown -h $user:$user {} +

# An agent that does not start or answer must not leave the package half configured.
end_drain() {
    tries=10
    until axiom-client resume; do
        tries=$((tries - 1))
        if [ "$tries" = 0 ]; then
            echo "axiom-client still drains; to take tasks again: axiom-client resume" >&2
            return 0
        fi
        sleep 1
    done
}

first=no
if [ "$1" = 1 ] || { [ "$1" = configure ] && [ -z "${2:-}" ]; }; then first=yes; fi
if command -v systemctl >/dev/null; then
    if [ $first = yes ]; then systemctl enable --quiet axiom-client || true; fi
    if [ -d /run/systemd/system ]; then
        systemctl daemon-reload
        if [ -e /run/axiom-client.restart ]; then
            systemctl start axiom-client ||
                echo "axiom-client did not start; see: journalctl -u axiom-client" >&2
            if [ -e /run/axiom-client.upgrade ]; then end_drain; fi
        fi
    fi
fi
rm -f /run/axiom-client.restart /run/axiom-client.upgrade
if [ $first = yes ]; then
    echo "axiom-client is installed. Join a project and start:"
    echo "  sudo axiom-client attach https://project.example"
    echo "  sudo systemctl start axiom-client"
fi
