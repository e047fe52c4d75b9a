#!/bin/sh
# Stands in front of the HAProxy that Ray Serve starts. Ray's configuration opens the metrics and
# statistics ports on every interface and the admin socket to every user, and leaves HAProxy behind,
# holding the port, when Ray is killed. This narrows the first two and ties HAProxy to its parent.
config="" previous=""
for argument in "$@"; do
    [ "$previous" = "-f" ] && config="$argument"
    previous="$argument"
done
if [ -n "$config" ] && [ -f "$config" ]; then
    sed -i \
        -e 's/^\( *bind \):\([0-9][0-9]*\)$/\1127.0.0.1:\2/' \
        -e 's/^\( *bind \)\*:\([0-9][0-9]*\)$/\1127.0.0.1:\2/' \
        -e 's/mode 666 level admin/mode 600 level admin/' "$config"
fi
if command -v setpriv >/dev/null 2>&1; then
    exec setpriv --pdeathsig KILL -- "$ADMIRALTY_HAPROXY_BINARY" "$@"
fi
exec "$ADMIRALTY_HAPROXY_BINARY" "$@"
