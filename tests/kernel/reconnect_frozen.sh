#!/bin/bash
# SPDX-License-Identifier: MIT
# A server that is frozen for longer than a request may take, and goes on later, costs nothing.
# lab: needs nbdkit
# lab: time=480
. "$LAB/lib.sh"

truncate -s 32M store
serve_nbdkit store 127.0.0.1:10809 file "$PWD/store"

for connections in 1 4; do
    expect_exit 0 client attach --connections "$connections" nbd://127.0.0.1/ /dev/nbd0
    start_load /dev/nbd0 --threads 8 --size 8388608
    sleep 1
    freeze_server store
    now_ms && frozen=$now
    # A connection that no request waits on lives on: a stopped server's kernel answers for it.
    await_field 10 nbd0 LIVE $((connections - 1))
    sleep 3
    now_ms && echo "$frozen $now" >outages
    thaw_server store
    await_field 10 nbd0 STATE attached
    sleep 6
    measured=$(figures)
    echo "frozen connections=$connections $measured"
    check_match 'the measurement' "$measured" '^outages=1 '
    end_load
    rm timeline
    expect_exit 0 client detach /dev/nbd0
done
