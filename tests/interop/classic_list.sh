#!/bin/bash
# SPDX-License-Identifier: MIT
# The classic `-l HOST PORT` lists exports in the old words.
# shellcheck source=tests/interop/lib.sh
. "${0%/*}/lib.sh"
need qemu-nbd nbdkit

random_file "$LAB_SCRATCH/disk" 1
tcp=127.0.0.1:$(free_port)
serve_qemu_nbd tcp "$tcp" -x vm-storage -D 'the first disk' "$LAB_SCRATCH/disk"
for words in "-l 127.0.0.1 ${tcp##*:}" "-list 127.0.0.1 ${tcp##*:}" "127.0.0.1 ${tcp##*:} -l"; do
    echo "$words"
    # shellcheck disable=SC2086 # words are meant to be split
    expect_exit 0 client $words
    check_match 'the greeting' "$out" '^Negotiation: \.\.'
    check_match 'the list' "$out" $'\nvm-storage'
done

echo 'no server'
none=$(free_port)
expect_exit 1 client -l 127.0.0.1 "$none"
check_match 'the reason' "$err" 'refused'
