#!/bin/bash
# SPDX-License-Identifier: MIT
# A server that is gone is an error in bounded time, and never keeps a device from being detached.
# lab: needs nbdkit
. "$LAB/lib.sh"

serve_nbdkit store 127.0.0.1:10809 memory 16M

within() { # SECONDS CODE ARG...
    local limit=$1 expected=$2 start
    shift 2
    start=$(milliseconds)
    expect_exit "$expected" client "$@"
    [ $(($(milliseconds) - start)) -lt $((limit * 1000)) ] || fail "'$*' takes longer than $limit s"
}

echo 'killed while attached, no reconnecting wanted'
within 10 0 attach --reconnect-for 0 nbd://127.0.0.1/ /dev/nbd0
kill_server store
run timeout 20 dd if=/dev/nbd0 of=/dev/null bs=4096 count=1 iflag=direct
check_eq 'the code of a read' "$code" 1
within 10 0 detach /dev/nbd0
detached nbd0 || fail 'detach leaves the device attached'

echo 'killed while attached, I/O waiting for it'
restart_server store
within 10 0 attach nbd://127.0.0.1/ /dev/nbd0
kill_server store
dd if=/dev/nbd0 of=/dev/null bs=4096 count=1 iflag=direct status=none 2>/dev/null &
sleep 1
within 15 0 detach --force /dev/nbd0
wait_until 5 detached nbd0 || fail 'detach leaves the device attached'
wait $! && fail 'a read succeeds without a server'

echo 'frozen while attached'
restart_server store
within 10 0 attach nbd://127.0.0.1/ /dev/nbd0
freeze_server store
within 15 0 detach --force /dev/nbd0
detached nbd0 || fail 'detach leaves the device attached'

echo 'frozen before attaching'
within 8 6 attach --connect-timeout 2 nbd://127.0.0.1/ /dev/nbd0
thaw_server store
kill_server store

echo 'never there'
within 5 6 attach nbd://127.0.0.1/ /dev/nbd0
check_match 'the reason' "$err" '127\.0\.0\.1.*refused'
detached nbd0 || fail 'something is attached'
