#!/bin/bash
# SPDX-License-Identifier: MIT
# The block size is the user's, at least the server's minimum, and never the last user's.
# lab: needs nbdkit
. "$LAB/lib.sh"

serve_nbdkit any 127.0.0.1:10809 memory 16M
serve_nbdkit big 127.0.0.1:10810 --filter=blocksize-policy memory 16M \
    blocksize-minimum=4096 blocksize-preferred=64K blocksize-maximum=1M

block_size() { # WANTED ARG...
    local wanted=$1
    shift
    expect_exit 0 client "$@"
    check_eq "the block size with '$*'" "$(blockdev --getss /dev/nbd0)" "$wanted"
    check_eq "the size with '$*'" "$(device_bytes /dev/nbd0)" $((16 * 1048576))
    dd if=/dev/zero of=/dev/nbd0 bs=2M count=4 oflag=direct status=none
    expect_exit 0 client detach /dev/nbd0
}

block_size 4096 attach --block-size 4096 nbd://127.0.0.1/ /dev/nbd0
block_size 512 attach nbd://127.0.0.1/ /dev/nbd0
block_size 4096 attach nbd://127.0.0.1:10810/ /dev/nbd0
block_size 4096 127.0.0.1 10809 /dev/nbd0 -N vm -b 4096
block_size 512 127.0.0.1 10809 /dev/nbd0 -N vm

echo 'a block size the server or the kernel cannot have'
expect_exit 2 client attach --block-size 1536 nbd://127.0.0.1/ /dev/nbd0
run client attach --block-size 512 nbd://127.0.0.1:10810/ /dev/nbd0
[ "$code" -ne 0 ] || fail "a block size below the server's minimum is taken"
detached nbd0 || fail 'a refused attach leaves something attached'
