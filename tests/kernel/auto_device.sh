#!/bin/bash
# SPDX-License-Identifier: MIT
# Without a device the kernel chooses a free one, and its name is the answer.
# lab: needs nbdkit
. "$LAB/lib.sh"

serve_nbdkit store 127.0.0.1:10809 memory 16M

for wanted in 0 1 2; do
    expect_exit 0 client attach nbd://127.0.0.1/
    check_eq 'the answer' "$out" "/dev/nbd$wanted"
    attached "nbd$wanted" || fail "nbd$wanted is not attached"
done
expect_exit 0 client detach /dev/nbd1
expect_exit 0 client attach nbd://127.0.0.1/
check_eq 'the answer after nbd1 was freed' "$out" /dev/nbd1

echo 'classic, as scripts parse it'
expect_exit 0 client 127.0.0.1 10809 -N vm
check_eq 'the device' "$(sed -n 's/^Connected //p' <<<"$out")" /dev/nbd3

expect_exit 0 client detach --all
for n in 0 1 2 3; do detached "nbd$n" || fail "detach --all leaves nbd$n"; done
