#!/bin/bash
# SPDX-License-Identifier: MIT
# Where netlink is not wanted the ioctl interface serves, in both dialects.
# lab: needs nbdkit
. "$LAB/lib.sh"

random_file store 16
serve_nbdkit store 127.0.0.1:10809 file "$PWD/store"

echo 'classic'
expect_exit 0 client 127.0.0.1 10809 /dev/nbd0 -N vm -nonetlink
check_match 'the answer' "$out" '^Negotiation: \.\.size = 16MB'
check_match 'the talk' "$err" "bs=512, sz=$((16 * 1048576)) bytes"
wait_until 5 attached nbd0 || fail 'nothing is attached'
check_eq 'what is read' "$(device_sum /dev/nbd0)" "$(sum_of store)"
expect_exit 0 client -c /dev/nbd0 -nonetlink
check_match 'what -c prints' "$out" '^[0-9]+$'
expect_exit 0 client -d /dev/nbd0 -nonetlink
check_eq 'what -d prints' "$out" 'disconnect, sock, done'
wait_until 5 detached nbd0 || fail '-d leaves the device attached'

echo 'verbs'
expect_exit 0 client attach --no-netlink nbd://127.0.0.1/vm /dev/nbd0
check_eq 'the answer' "$out" /dev/nbd0
attached nbd0 || fail 'attach answers before the device is usable'
check_eq 'what is read' "$(device_sum /dev/nbd0)" "$(sum_of store)"
expect_exit 0 client detach /dev/nbd0
detached nbd0 || fail 'detach leaves the device attached'
wait_until 5 no_clients_left || fail 'a process outlives its device'
