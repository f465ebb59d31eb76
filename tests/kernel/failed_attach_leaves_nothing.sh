#!/bin/bash
# SPDX-License-Identifier: MIT
# An attach that fails leaves no device, no connection, no process and no file behind.
# lab: needs nbdkit
. "$LAB/lib.sh"

mkdir -p exports
truncate -s 16M exports/present
serve_nbdkit store 127.0.0.1:10809 file dir="$PWD/exports"

nobody_connected() { [ "$(connections_to 10809)" -eq 0 ]; }

fails() { # CODE ARG...
    expect_exit "$@"
    check_eq 'what a failed command prints on stdout' "$out" ''
    check_match 'the message' "$err" '^nbd-client: cannot '
    detached nbd0 || fail 'a device is left attached'
    wait_until 5 nobody_connected || fail 'a connection is left open'
    wait_until 5 no_clients_left || fail 'a process is left running'
    check_eq 'status files' "$(find /run -path '/run/nbd/nbd0.json')" ''
}

fails 3 client attach nbd://127.0.0.1/absent /dev/nbd0
fails 6 client attach nbd://127.0.0.1:1/present /dev/nbd0
fails 7 client attach nbds://127.0.0.1/present /dev/nbd0
sleep 60 9</dev/nbd0 &
holder=$!
fails 5 client attach nbd://127.0.0.1/present /dev/nbd0
kill "$holder"

echo 'and the same attach works once nothing is in its way'
wait "$holder" 2>/dev/null || true
expect_exit 0 client attach nbd://127.0.0.1/present /dev/nbd0
