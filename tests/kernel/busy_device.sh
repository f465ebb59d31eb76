#!/bin/bash
# SPDX-License-Identifier: MIT
# A device in use is refused with its holder; one that is only being looked at is waited for.
# lab: needs nbdkit
. "$LAB/lib.sh"

serve_nbdkit store 127.0.0.1:10809 memory 16M
uri=nbd://127.0.0.1/

echo 'attached already'
expect_exit 0 client attach "$uri" /dev/nbd0
expect_exit 5 client attach nbd://127.0.0.1/other /dev/nbd0
check_match 'the reason' "$err" 'nbd0.*nbd://127\.0\.0\.1/'
expect_exit 1 client 127.0.0.1 10809 /dev/nbd0 -N other
attached nbd0 || fail 'the refusal took the device away'
expect_exit 0 client detach /dev/nbd0

echo 'opened by somebody for half a second, as udev does'
sleep 0.5 9</dev/nbd0 &
expect_exit 0 client attach "$uri" /dev/nbd0
expect_exit 0 client detach /dev/nbd0

echo 'opened by somebody for good'
sleep 60 9</dev/nbd0 &
holder=$!
start=$(milliseconds)
expect_exit 5 client attach "$uri" /dev/nbd0
[ $(($(milliseconds) - start)) -lt 10000 ] || fail 'waits too long for a device that stays open'
expect_exit 1 client 127.0.0.1 10809 /dev/nbd0 -N vm
kill "$holder"
