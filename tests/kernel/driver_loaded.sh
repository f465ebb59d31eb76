#!/bin/bash
# SPDX-License-Identifier: MIT
# The driver is loaded when it is not, and its absence is said in one sentence.
# lab: needs nbdkit
# lab: nomodule
. "$LAB/lib.sh"

serve_nbdkit store 127.0.0.1:10809 memory 16M

expect_exit 0 client list --json
check_eq 'devices without a driver' "$(json 'd["devices"]')" '[]'

echo 'no driver to be had'
mount -t tmpfs tmpfs /lib/modules
expect_exit 8 client attach nbd://127.0.0.1/ /dev/nbd0
check_match 'the reason' "$err" 'nbd'
expect_exit 1 client -c /dev/nbd0
umount /lib/modules

echo 'a driver to be loaded'
expect_exit 0 client attach nbd://127.0.0.1/ /dev/nbd0
attached nbd0 || fail 'nothing is attached'
expect_exit 0 client detach /dev/nbd0
