#!/bin/bash
# SPDX-License-Identifier: MIT
# A read-only export, or one attached read-only, cannot be written.
# lab: needs nbdkit
. "$LAB/lib.sh"

serve_nbdkit fixed 127.0.0.1:10809 -r memory 16M
serve_nbdkit free 127.0.0.1:10810 memory 16M

refuses_writes() { # ARG...
    expect_exit 0 client "$@"
    check_eq 'the read-only flag' "$(blockdev --getro /dev/nbd0)" 1
    run dd if=/dev/zero of=/dev/nbd0 bs=4096 count=1 oflag=direct
    [ "$code" -ne 0 ] || fail 'a read-only device takes a write'
    head -c 4096 /dev/nbd0 >/dev/null
    expect_exit 0 client detach /dev/nbd0
}

refuses_writes attach nbd://127.0.0.1/ /dev/nbd0
refuses_writes attach --read-only nbd://127.0.0.1:10810/ /dev/nbd0
refuses_writes attach -r nbd://127.0.0.1:10810/ /dev/nbd0
refuses_writes 127.0.0.1 10810 /dev/nbd0 -N vm -readonly

echo 'the next user of the device may write again'
expect_exit 0 client attach nbd://127.0.0.1:10810/ /dev/nbd0
check_eq 'the read-only flag' "$(blockdev --getro /dev/nbd0)" 0
dd if=/dev/zero of=/dev/nbd0 bs=4096 count=1 oflag=direct status=none
expect_exit 0 client detach /dev/nbd0
