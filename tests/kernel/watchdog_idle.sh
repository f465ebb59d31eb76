#!/bin/bash
# SPDX-License-Identifier: MIT
# A watchdog with nothing to do does nothing: no wake-up in a minute, and little memory of its own.
# lab: needs nbdkit
# lab: time=480
. "$LAB/lib.sh"

serve_nbdkit store 127.0.0.1:10809 memory 16M
expect_exit 0 client 127.0.0.1 10809 /dev/nbd0 -N store -persist -C 4
expect_exit 0 client attach nbd://127.0.0.1/ /dev/nbd1
pids="$(field nbd0 PID) $(field nbd1 PID)"

switches() { # of all threads, wanted and unwanted
    local pid
    for pid in $pids; do cat "/proc/$pid"/task/*/status; done | awk '/ctxt_switches/ { n += $2 } END { print n }'
}
private_kib() { awk '/^Private_/ { n += $2 } END { print n }' "/proc/$1/smaps_rollup"; }

# What attaching has left to do.
sleep 2
before=$(switches)
sleep 60
check_eq 'context switches after a minute' "$(switches)" "$before"
for pid in $pids; do
    kib=$(private_kib "$pid")
    echo "idle watchdog: $kib KiB private, $(awk '/^Threads/ { print $2 }' "/proc/$pid/status") threads"
    ((kib > 0 && kib < 1536)) || fail "a watchdog has $kib KiB of its own"
done
expect_exit 0 client detach /dev/nbd0
expect_exit 0 client detach /dev/nbd1
