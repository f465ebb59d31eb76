#!/bin/bash
# SPDX-License-Identifier: MIT
# --essential: a watchdog that stays in memory, cannot be killed for want of it, and holds no more rights
# than it needs.
# lab: needs nbdkit
# lab: time=480
. "$LAB/lib.sh"

truncate -s 64M store
serve_nbdkit store 127.0.0.1:10809 file "$PWD/store"

expect_exit 0 client attach --essential nbd://127.0.0.1/ /dev/nbd0
watchdog=$(field nbd0 PID)
status() { awk -v key="$1:" '$1 == key { print $2 }' "/proc/$watchdog/status"; }

[ "$(status VmLck)" -gt 1000 ] || fail "only $(status VmLck) kB are locked"
check_eq 'the OOM score' "$(cat "/proc/$watchdog/oom_score_adj")" -1000
check_eq 'no new privileges' "$(status NoNewPrivs)" 1
# CAP_SYS_ADMIN (21) and CAP_IPC_LOCK (14), for good.
for set in CapEff CapPrm CapBnd; do
    check_eq "$set" "$(status "$set")" 0000000000204000
done

echo 'swap stays on through a restart of the server'
mkswap /dev/nbd0 >/dev/null
swapon /dev/nbd0
outage store 1
await_field 15 nbd0 STATE attached
grep -q '^/dev/nbd0 ' /proc/swaps || fail 'the swap is gone'
swapoff /dev/nbd0
expect_exit 0 client detach /dev/nbd0
wait_until 5 no_clients_left || fail 'the watchdog outlives its device'
! dmesg | grep -E 'I/O error|blocked for more than' || fail 'the kernel complains'
