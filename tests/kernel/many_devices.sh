#!/bin/bash
# SPDX-License-Identifier: MIT
# Sixty-four devices at once are attached, listed and detached.
# lab: needs nbdkit
# lab: nbds_max=64
# lab: time=480
. "$LAB/lib.sh"

serve_nbdkit store 127.0.0.1:10809 memory 16M

for ((n = 0; n < 64; n++)); do
    expect_exit 0 client attach nbd://127.0.0.1/ "/dev/nbd$n"
done
expect_exit 0 client list --json
check_eq 'devices listed' "$(json 'len(d["devices"])')" 64
dd if=/dev/urandom of=/dev/nbd63 bs=1M count=1 oflag=direct status=none
check_eq 'what another device reads' "$(device_sum /dev/nbd0)" "$(device_sum /dev/nbd63)"

start=$(milliseconds)
expect_exit 0 client detach --all
echo "detached in $(($(milliseconds) - start)) ms"
for ((n = 0; n < 64; n++)); do detached "nbd$n" || fail "detach --all leaves nbd$n"; done
wait_until 10 no_clients_left || fail 'processes outlive their devices'
