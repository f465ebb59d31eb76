#!/bin/bash
# SPDX-License-Identifier: MIT
# Partitions are there when attach returns and gone when detach returns.
# lab: needs nbdkit sfdisk
. "$LAB/lib.sh"

truncate -s 32M disk
printf 'label: dos\n,8M\n,8M\n' | sfdisk -q disk
serve_nbdkit store 127.0.0.1:10809 file "$PWD/disk"

for _ in 1 2 3; do
    expect_exit 0 client attach nbd://127.0.0.1/ /dev/nbd0
    check_eq 'the first partition' "$(device_bytes /dev/nbd0p1)" $((8 * 1048576))
    [ -b /dev/nbd0p2 ] || fail 'the second partition is missing'
    expect_exit 0 client detach /dev/nbd0
    [ ! -e /sys/block/nbd0/nbd0p1 ] || fail 'a partition outlives its device'
done
