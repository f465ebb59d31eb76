#!/bin/bash
# SPDX-License-Identifier: MIT
# What a connection still had to send when it was given up never reaches the server: it would
# overwrite what was written since over the connection that took its place.
# lab: needs nbdkit openssl iptables-legacy
# lab: time=480
. "$LAB/lib.sh"

truncate -s 32M store
make_pki
serve_nbdkit store 127.0.0.1:10809 --tls=on --tls-certificates="$PWD/pki" file "$PWD/store"

swallow() { # -A|-D PORT...; only these connections, so that new ones get through
    local port
    for port in "${@:2}"; do
        iptables-legacy "$1" INPUT -i lo -p tcp --sport "$port" -j DROP
        iptables-legacy "$1" INPUT -i lo -p tcp --dport "$port" -j DROP
    done
}
sending() { # PORT...: whether one of them, in whatever state, has something left to send
    local port
    for port; do
        awk -v port=":$(printf %04X "$port")" \
            '$2 ~ port "$" && $5 !~ /^00000000:/ { n++ } END { exit !n }' /proc/net/tcp && return
    done
    return 1
}

for how in plain successor tls; do
    for connections in 1 4; do
        echo "connections=$connections, $how"
        case $how in
            tls) target=(--tls-ca tls/ca.pem nbds://127.0.0.1/) ;;
            *) target=(nbd://127.0.0.1/) ;;
        esac
        expect_exit 0 client attach --connections "$connections" "${target[@]}" /dev/nbd0
        if [ "$how" = successor ]; then # which has no copies of the sockets
            kill -KILL "$(field nbd0 PID)"
            expect_exit 0 client reattach /dev/nbd0
        fi
        # Few blocks, so that each is written again and again.
        start_load /dev/nbd0 --threads 8 --size 196608
        sleep 1
        mapfile -t old < <(local_ports 10809)
        check_eq 'connections' "${#old[@]}" "$connections"
        before=$(field nbd0 RECONNECTS)
        swallow -A "${old[@]}"
        wait_until 5 sending "${old[@]}" || fail 'nothing is under way'
        # One processor uses the first connection until that is dead.
        await_field 15 nbd0 RECONNECTS $((before + 1))
        await_field 10 nbd0 STATE attached
        sleep 2
        swallow -D "${old[@]}"
        # TCP's pauses have doubled up to here: the next repetition may be that far away.
        sleep 15
        end_load
        expect_exit 0 client detach /dev/nbd0
    done
done
