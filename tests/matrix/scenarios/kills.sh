#!/bin/bash
# SPDX-License-Identifier: MIT
# Kills of the server under a verifying load on two processors: no error, no wrong block.
# lab: time=480
. "$LAB/lib.sh"

truncate -s 32M store
serve_nbdkit store 127.0.0.1:10809 file "$PWD/store"

for connections in 1 4; do
    expect_exit 0 client attach --connections "$connections" --reconnect-for forever \
        nbd://127.0.0.1/ /dev/nbd0
    check_eq 'connections' "$(connections_to 10809)" "$connections"
    start_load /dev/nbd0 --threads 8 --size 8388608
    sleep 1
    for seconds in 1 2; do # with time to finish, for the figures
        outage store "$seconds"
        sleep 5.5
    done
    measured=$(figures)
    for seconds in 0 1 0 0; do # into what is still recovering
        outage store "$seconds"
        sleep "0.$((RANDOM % 9 + 1))"
    done
    end_load
    echo "recovery connections=$connections $measured"
    [[ $measured =~ all_max=([0-9]+) ]]
    [ "${BASH_REMATCH[1]}" -lt 6000 ] || fail 'a request waits longer than 6 s after the return'
    await_field 10 nbd0 LIVE "$connections"
    rm -f timeline outages
    expect_exit 0 client detach /dev/nbd0
done
