#!/bin/bash
# SPDX-License-Identifier: MIT
# How soon a device works again after its server's return, beside qemu-nbd's reconnect-delay:
#
#   tests/lab/uml tests/bench/recovery.sh [ROUNDS]    (10)
#
# new: the first completion of a request that was made in the outage, median and maximum; all: the
# last completion of one that waited at the return. Milliseconds after the server listens again.
# lab: needs nbdkit qemu-nbd
# lab: time=1500 memory=768M
. "$LAB/lib.sh"
rounds=${1:-10} load='' # set by start_load

truncate -s 64M store
serve_nbdkit store 127.0.0.1:10809 file "$PWD/store"

measure() { # WHO
    local seconds round
    start_load /dev/nbd0 --threads 8 --size 8388608
    for seconds in 1 5 20; do
        rm -f outages
        for ((round = 0; round < (seconds == 20 ? (rounds + 4) / 5 : rounds); round++)); do
            outage store "$seconds"
            sleep $((seconds == 20 ? 14 : 7)) # the slowest takes 10 s
        done
        printf '%-28s outage=%ss %s\n' "$1" "$seconds" "$(figures)"
    done
    touch load-end
    wait "$load" || true
    printf '%-28s %s\n' "$1" "$(cat load)"
    rm timeline
}

for connections in 1 4; do
    expect_exit 0 client attach --connections "$connections" nbd://127.0.0.1/ /dev/nbd0
    measure "nbd-client connections=$connections"
    expect_exit 0 client detach /dev/nbd0
done

mkdir -p /run/lock # where /var/lock leads
qemu-nbd -c /dev/nbd0 --image-opts \
    driver=nbd,server.type=inet,server.host=127.0.0.1,server.port=10809,reconnect-delay=60 &
wait_until 10 attached nbd0
measure 'qemu-nbd reconnect-delay=60'
qemu-nbd -d /dev/nbd0
