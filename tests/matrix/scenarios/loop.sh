#!/bin/bash
# SPDX-License-Identifier: MIT
# Attaching and detaching fifty times while another processor keeps opening the node, as udev does.
# lab: time=480
. "$LAB/lib.sh"

serve_nbdkit store 127.0.0.1:10809 memory 16M

probe() {
    while [ ! -e probing-ends ]; do
        dd if=/dev/nbd0 of=/dev/null bs=4096 count=1 iflag=direct status=none 2>/dev/null || true
        sleep 0.0$((RANDOM % 5))
    done
}
probe &
prober=$!

for ((round = 0; round < 50; round++)); do
    expect_exit 0 client attach --connections $((round % 4 + 1)) nbd://127.0.0.1/ /dev/nbd0
    attached nbd0 || fail "nothing is attached in round $round"
    expect_exit 0 client detach /dev/nbd0
    detached nbd0 || fail "detach leaves the device attached in round $round"
done
touch probing-ends
wait "$prober"
wait_until 5 no_clients_left || fail 'watchdogs stay behind'
