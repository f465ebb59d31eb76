#!/bin/bash
# SPDX-License-Identifier: MIT
# A server that takes longer for a request than the watchdog's first guess is waited for, not killed.
# lab: needs nbdkit
# lab: time=480
. "$LAB/lib.sh"

truncate -s 16M store
uri=nbd://127.0.0.1/

becomes_slow() { # the attach itself must be quick
    kill_server store
    serve_nbdkit store 127.0.0.1:10809 --filter=delay file "$PWD/store" delay-read=8 delay-write=8
    await_field 10 nbd0 STATE attached
}
succeeds() { # WHAT ATTEMPTS: one write completes, and the connection was replaced for it so often
    local start before
    start=$(milliseconds) before=$(field nbd0 RECONNECTS)
    timeout -s KILL 50 dd if=/dev/urandom of=/dev/nbd0 bs=4096 count=1 oflag=direct status=none ||
        fail "the $1 write fails after $(($(milliseconds) - start)) ms"
    echo "$1: $(($(milliseconds) - start)) ms"
    check_eq 'connections replaced for it' $(($(field nbd0 RECONNECTS) - before)) "$2"
}

serve_nbdkit store 127.0.0.1:10809 file "$PWD/store"
expect_exit 0 client attach --connections 1 "$uri" /dev/nbd0
becomes_slow
succeeds 'first' 1
succeeds 'second' 0
succeeds 'third' 0
expect_exit 0 client detach --force /dev/nbd0

# With several connections the driver repeats a request for ever once its timer was too short.
echo 'several connections, --io-timeout'
kill_server store
serve_nbdkit store 127.0.0.1:10809 file "$PWD/store"
expect_exit 0 client attach --connections 4 --io-timeout 30s "$uri" /dev/nbd0
becomes_slow
succeeds 'with 30 s' 0
expect_exit 0 client detach --force /dev/nbd0

echo 'several connections, slow from the first request on'
kill_server store
serve_nbdkit store 127.0.0.1:10809 --filter=delay file "$PWD/store" delay-read=1500ms
expect_exit 0 client attach --connections 4 "$uri" /dev/nbd0
becomes_slow
succeeds 'patient' 0
