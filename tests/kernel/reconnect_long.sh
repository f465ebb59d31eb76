#!/bin/bash
# SPDX-License-Identifier: MIT
# With -persist an outage longer than the quick pace lasts costs no error either.
# lab: needs nbdkit
# lab: time=480
. "$LAB/lib.sh"

truncate -s 32M store
serve_nbdkit store 127.0.0.1:10809 file "$PWD/store"
expect_exit 0 client 127.0.0.1 10809 /dev/nbd0 -N store -persist
start_load /dev/nbd0 --threads 4 --size 8388608
sleep 1
outage store 180
await_field 10 nbd0 STATE attached
sleep 6
echo "long outage $(figures)"
end_load
expect_exit 0 client -d /dev/nbd0
