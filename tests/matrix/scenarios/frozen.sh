#!/bin/bash
# SPDX-License-Identifier: MIT
# A server that is frozen under load for longer than a request may take, and goes on later.
. "$LAB/lib.sh"

truncate -s 32M store
serve_nbdkit store 127.0.0.1:10809 file "$PWD/store"

# On two processors the requests of one connection move on to the others, which then die as well.
links_dead() { [ "$(field nbd0 LIVE)" -lt "$connections" ]; }

for connections in 1 4; do
    expect_exit 0 client attach --connections "$connections" nbd://127.0.0.1/ /dev/nbd0
    start_load /dev/nbd0 --threads 8 --size 8388608
    sleep 1
    freeze_server store
    wait_until 10 links_dead || fail 'the frozen server is not noticed'
    sleep 3
    thaw_server store
    await_field 10 nbd0 LIVE "$connections"
    sleep 5 # for what is in flight
    end_load
    expect_exit 0 client detach /dev/nbd0
done
