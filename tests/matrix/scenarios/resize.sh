#!/bin/bash
# SPDX-License-Identifier: MIT
# An export that grows under load: taken over by resize, and after an outage by itself if so wished.
. "$LAB/lib.sh"

mib() { echo $(($(</sys/block/nbd0/size) / 2048)); }
mib_is() { [ "$(mib)" -eq "$1" ]; }

truncate -s 16M store
serve_nbdkit store 127.0.0.1:10809 file "$PWD/store"

for connections in 1 4; do
    truncate -s 16M store
    kill_server store
    restart_server store
    expect_exit 0 client attach --connections "$connections" --auto-resize \
        --reconnect-for forever nbd://127.0.0.1/ /dev/nbd0
    start_load /dev/nbd0 --threads 4 --size 8388608
    truncate -s 24M store
    expect_exit 0 client resize /dev/nbd0
    check_eq 'MiB after resize' "$(mib)" 24
    # From Linux 6.12 on a size that came with the new socket would block until the device gives up.
    kill_server store
    truncate -s 32M store
    sleep 1
    restart_server store
    wait_until 15 mib_is 32 || fail 'the device does not grow'
    await_field 10 nbd0 STATE attached
    sleep 5
    end_load
    expect_exit 0 client detach /dev/nbd0
done
