#!/bin/bash
# SPDX-License-Identifier: MIT
# --essential: a watchdog that stays in memory, cannot be killed for want of it, and holds no more rights
# than it needs.
# lab: needs nbdkit openssl strace
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

echo 'over TLS: a new handshake needs no file but those of the kernel and in /run'
make_pki
serve_tls tls 127.0.0.1:10810 file "$PWD/store"
expect_exit 0 client attach --essential nbds://127.0.0.1:10810/ /dev/nbd0 --tls-ca tls/ca.pem
connections=$(field nbd0 CONNS)
: >strace.log
strace -f -p "$(field nbd0 PID)" -e trace=openat,execve -o files 2>strace.log &
tracer=$!
wait_until 10 grep -q attached strace.log || fail "strace does not start: $(<strace.log)"
kill_server tls
await_field 15 nbd0 LIVE 0
restart_server tls
await_field 15 nbd0 LIVE "$connections"
kill "$tracer"
wait "$tracer" || true
grep -q '"/run/nbd/' files || fail 'nothing is traced'
! grep -F '(' files | grep -vE '"/(dev/kmsg|(proc|run|sys)/)' || fail 'a file may be on the device'
expect_exit 0 client detach /dev/nbd0
! dmesg | grep -E 'I/O error|blocked for more than' || fail 'the kernel complains'
