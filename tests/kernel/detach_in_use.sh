#!/bin/bash
# SPDX-License-Identifier: MIT
# A device in use is not pulled away: the holder is named, and only --force overrides.
# lab: needs nbdkit mkfs.ext4 mkswap sfdisk
. "$LAB/lib.sh"

serve_nbdkit store 127.0.0.1:10809 memory 64M
mkdir -p /run/point

refused() { # HOLDER
    expect_exit 5 client detach /dev/nbd0
    check_match 'the reason' "$err" "$1"
    attached nbd0 || fail 'the refusal took the device away'
}

echo 'mounted'
expect_exit 0 client attach nbd://127.0.0.1/ /dev/nbd0
mkfs.ext4 -q /dev/nbd0
mount /dev/nbd0 /run/point
refused /run/point
echo kept >/run/point/file
umount /run/point
expect_exit 0 client detach /dev/nbd0

echo 'swapped on'
expect_exit 0 client attach nbd://127.0.0.1/ /dev/nbd0
mkswap -q /dev/nbd0
swapon /dev/nbd0
refused swap
swapoff /dev/nbd0

echo 'a partition mounted'
printf 'label: dos\n,\n' | sfdisk -q /dev/nbd0
mkfs.ext4 -q /dev/nbd0p1
mount /dev/nbd0p1 /run/point
refused /run/point

echo 'by force'
expect_exit 5 client detach --force /dev/nbd0
check_match 'the reason' "$err" 'disconnected, but somebody still has it open'
umount /run/point
wait_until 10 detached nbd0 || fail 'detach --force leaves the device attached'
