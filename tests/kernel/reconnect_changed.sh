#!/bin/bash
# SPDX-License-Identifier: MIT
# A server that returns with something else: refused until it is right again, or taken if it grew.
# lab: needs nbdkit
# lab: time=480
. "$LAB/lib.sh"

mkdir exports
truncate -s 32M exports/disk
right=(file dir="$PWD/exports")
bytes=$((32 * 1048576))

refused() { # REASON; nothing of it reaches the device
    wait_until 10 reason_is "$1" || fail "the reason is '$(field nbd0 ERROR)', not '$1'"
    sleep 1
    check_eq 'the state' "$(field nbd0 STATE)" reconnecting
    check_eq 'the size' "$(device_bytes_now)" "$bytes"
    load_runs || fail 'the load has ended'
}
reason_is() { [[ $(field nbd0 ERROR) == *$1* ]]; }
device_bytes_now() { echo $(($(</sys/block/nbd0/size) * 512)); }
size_is() { [ "$(device_bytes_now)" -eq "$1" ]; }

instead() { # NBDKIT-ARG...
    kill_server store
    serve_nbdkit store 127.0.0.1:10809 "$@"
}

serve_nbdkit store 127.0.0.1:10809 "${right[@]}"
expect_exit 0 client attach nbd://127.0.0.1/disk /dev/nbd0
start_load /dev/nbd0 --threads 4 --size 8388608

echo 'smaller'
kill_server store
truncate -s 16M exports/disk
restart_server store
refused shrunk
kill_server store
truncate -s 32M exports/disk
restart_server store
await_field 10 nbd0 STATE attached

echo 'read-only'
instead -r "${right[@]}"
refused read-only

echo 'without the export'
mv exports/disk exports/hidden
instead "${right[@]}"
refused 'disk'
mv exports/hidden exports/disk
await_field 10 nbd0 STATE attached

echo 'without flush, without FUA'
instead eval get_size="echo $bytes" pread='exit 1' pwrite='exit 1' can_write='exit 0' \
    can_flush='exit 3' can_multi_conn='exit 0' can_trim='exit 0' can_fua='echo none'
refused lost
instead "${right[@]}"
await_field 10 nbd0 STATE attached

echo 'larger'
kill_server store
truncate -s 40M exports/disk
restart_server store
await_field 10 nbd0 STATE attached
size_is "$bytes" || fail 'the device grows by itself'
dmesg | grep -q 'export has grown to 41943040 bytes' || fail 'nothing is said about the growth'
expect_exit 0 client resize /dev/nbd0
size_is 41943040 || fail 'resize does not take over the new size'
sleep 6
end_load
expect_exit 0 client detach /dev/nbd0

echo 'larger, with --auto-resize'
expect_exit 0 client attach --auto-resize nbd://127.0.0.1/disk /dev/nbd0
start_load /dev/nbd0 --threads 4 --size 8388608
kill_server store
truncate -s 48M exports/disk
restart_server store
wait_until 15 size_is 50331648 || fail 'the device does not grow'
sleep 1
end_load
expect_exit 0 client detach /dev/nbd0

echo 'on its alternate address'
expect_exit 0 client attach --alternate nbd://127.0.0.1:10810/disk nbd://127.0.0.1/disk /dev/nbd0
start_load /dev/nbd0 --threads 4 --size 8388608
serve_nbdkit other 127.0.0.1:10810 "${right[@]}"
kill_server store
await_field 10 nbd0 STATE attached
check_eq 'the server' "$(field nbd0 SERVER)" 127.0.0.1:10810
restart_server store
kill_server other
await_field 10 nbd0 SERVER 127.0.0.1:10809
sleep 6
end_load
expect_exit 0 client detach /dev/nbd0
