#!/bin/bash
# SPDX-License-Identifier: MIT
# An attached export is a device with the server's data; detaching frees it.
# lab: needs nbdkit
. "$LAB/lib.sh"

mkdir -p exports
random_file exports/vm-storage 16
serve_nbdkit store 127.0.0.1:10809 file dir="$PWD/exports"
uri=nbd://127.0.0.1/vm-storage

expect_exit 0 client attach "$uri" /dev/nbd0
check_eq 'the answer' "$out" /dev/nbd0
attached nbd0 || fail 'the kernel knows of nothing attached'
check_match 'the backend' "$(cat /sys/block/nbd0/backend)" "^$uri#.+"
check_eq 'the size' "$(device_bytes /dev/nbd0)" $((16 * 1048576))
check_eq 'the block size' "$(blockdev --getss /dev/nbd0)" 512
check_eq 'what is read' "$(device_sum /dev/nbd0)" "$(sum_of exports/vm-storage)"

random_file new 16
dd if=new of=/dev/nbd0 bs=1M oflag=direct status=none
expect_exit 0 client detach /dev/nbd0
check_eq 'what detach prints' "$out" ''
detached nbd0 || fail 'detach leaves the device attached'
check_eq 'what was written' "$(sum_of exports/vm-storage)" "$(sum_of new)"
check_eq 'the size of a free device' "$(device_bytes /dev/nbd0)" 0
wait_until 5 no_clients_left || fail 'a process outlives its device'

echo 'a free device is detached already'
expect_exit 0 client detach /dev/nbd0

echo 'every way to name a device'
for device in nbd1 1 /dev/nbd1; do
    expect_exit 0 client attach "$uri" "$device"
    check_eq 'the answer' "$out" /dev/nbd1
    expect_exit 0 client detach "$device"
    detached nbd1 || fail "detach $device leaves it attached"
done
