#!/bin/bash
# SPDX-License-Identifier: MIT
# A relay that was stopped while it had requests, and goes on long after: none reaches the server,
# where they would overwrite what was written since over the connection that took its place.
# lab: needs nbdkit openssl
# lab: time=480
. "$LAB/lib.sh"

make_pki
truncate -s 32M store
serve_tls store 127.0.0.1:10809 file "$PWD/store"
expect_exit 0 client attach nbds://127.0.0.1/store /dev/nbd0 --tls-ca "$PWD/tls/ca.pem" \
    --tls-offload never --connections 1

for round in 1 2 3; do
    # Few blocks, so that each is written again and again.
    start_load /dev/nbd0 --threads 8 --size 196608
    sleep 1
    old=$(relays)
    before=$(field nbd0 RECONNECTS)
    kill -STOP "$old"
    await_field 25 nbd0 RECONNECTS $((before + 1))
    await_field 10 nbd0 STATE attached
    sleep 2
    end_load
    [ -d "/proc/$old" ] || fail 'the stopped relay has gone by itself'
    now_right=$(sum_of store)
    kill -CONT "$old"
    wait_until 5 [ ! -d "/proc/$old" ] || fail 'a relay that nobody needs stays'
    sleep 1
    check_eq "the store after round $round" "$(sum_of store)" "$now_right"
done
expect_exit 0 client detach /dev/nbd0
wait_until 5 no_clients_left || fail 'a process outlives its device'
