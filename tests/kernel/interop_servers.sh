#!/bin/bash
# SPDX-License-Identifier: MIT
# Each server's data arrives, and what is written is in the server's file.
# lab: needs nbdkit nbd-server qemu-nbd
. "$LAB/lib.sh"

random_file source 8

round_trip() { # NAME FILE URI ARG...; the server NAME serves FILE
    local name=$1 file=$2 uri=$3
    shift 3
    echo "$name"
    expect_exit 0 client attach "$uri" /dev/nbd0 "$@"
    check_eq "what is read from $name" "$(device_sum /dev/nbd0)" "$(sum_of "$file")"
    dd if=source of=/dev/nbd0 bs=1M oflag=direct status=none
    expect_exit 0 client detach /dev/nbd0
    check_eq "what $name wrote" "$(sum_of "$file")" "$(sum_of source)"
}

for n in 1 2 3 4 5; do random_file "disk$n" 8; done
serve_nbdkit nbdkit /run/nbdkit.sock file "$PWD/disk1"
serve_nbd_server nbd-server 127.0.0.1:10809 "vm-storage=$PWD/disk2"
serve_qemu_nbd qemu-nbd 127.0.0.1:10810 -x vm-storage "$PWD/disk3"
serve_qemu_nbd qemu-unix /run/qemu.sock -x 'name with spaces' "$PWD/disk4"
serve_nbdkit oldstyle 127.0.0.1:10811 -o file "$PWD/disk5"

round_trip nbdkit disk1 'nbd+unix:///?socket=/run/nbdkit.sock'
round_trip nbd-server disk2 nbd://127.0.0.1/vm-storage
round_trip qemu-nbd disk3 nbd://127.0.0.1:10810/vm-storage
round_trip qemu-unix disk4 'nbd+unix:///name%20with%20spaces?socket=/run/qemu.sock'

round_trip oldstyle disk5 nbd://127.0.0.1:10811/

echo 'an oldstyle server has no named exports'
expect_exit 3 client attach nbd://127.0.0.1:10811/named /dev/nbd0
check_match 'the reason' "$err" '[Oo]ld-?style'
