#!/bin/bash
# SPDX-License-Identifier: MIT
# A network that swallows everything: seen under load and when idle; a dial into it never delays us.
# lab: needs nbdkit iptables-legacy
# lab: time=480
. "$LAB/lib.sh"

truncate -s 32M store
serve_nbdkit store 127.0.0.1:10809 file "$PWD/store"

drop() { # -A or -D
    iptables-legacy "$1" INPUT -i lo -p tcp --dport 10809 -j DROP
    iptables-legacy "$1" INPUT -i lo -p tcp --sport 10809 -j DROP
}

echo 'under load'
for connections in 1 4; do
    expect_exit 0 client attach --connections "$connections" nbd://127.0.0.1/ /dev/nbd0
    start_load /dev/nbd0 --threads 4 --size 8388608
    sleep 1
    now_ms && lost=$now
    drop -A
    await_field 12 nbd0 LIVE $((connections - 1))
    # Long enough for the dials under way to be deep in TCP's back-off.
    sleep 12
    now_ms && echo "$lost $now" >outages
    drop -D
    await_field 10 nbd0 STATE attached
    sleep 6
    measured=$(figures)
    echo "silent network connections=$connections $measured"
    check_match 'the measurement' "$measured" '^outages=1 .* new_max=([0-9]+)'
    [ "${BASH_REMATCH[1]}" -lt 3000 ] || fail 'the dial waits for TCP'
    end_load
    rm timeline
    expect_exit 0 client detach /dev/nbd0
done

echo 'idle'
expect_exit 0 client attach --keepalive 3s nbd://127.0.0.1/ /dev/nbd0
drop -A
await_field 10 nbd0 STATE reconnecting
drop -D
await_field 10 nbd0 STATE attached
expect_exit 0 client detach /dev/nbd0
