#!/bin/bash
# SPDX-License-Identifier: MIT
# The ioctl interface with -persist: attached again after an outage, with I/O errors in between.
# lab: needs nbdkit
. "$LAB/lib.sh"

random_file store 16
serve_nbdkit store 127.0.0.1:10809 file "$PWD/store"
# A device without a server has a size of 0, which is no error to read.
readable() {
    [ "$(dd if=/dev/nbd0 bs=4096 count=1 iflag=direct status=none 2>/dev/null | wc -c)" -eq 4096 ]
}
unreadable() { ! readable; }
# The driver does not give a device another server while it is open, be it by us.
readable_after_a_while() { sleep 2 && readable; }

expect_exit 0 client 127.0.0.1 10809 /dev/nbd0 -N store -nonetlink -persist
check_match 'the warning' "$err" 'I/O errors in between'
check_eq 'what is read' "$(device_sum /dev/nbd0)" "$(sum_of store)"

for round in 1 2 3; do
    echo "round $round"
    kill_server store
    wait_until 10 unreadable || fail 'reads succeed without a server'
    sleep $((round - 1))
    restart_server store
    wait_until 20 readable_after_a_while || fail 'the device does not come back'
    check_eq 'what is read' "$(device_sum /dev/nbd0)" "$(sum_of store)"
done

echo 'a user that stays'
sleep 60 9</dev/nbd0 &
user=$!
kill_server store
wait_until 10 unreadable || fail 'reads succeed without a server'
restart_server store
sleep 1
kill "$user"
wait_until 20 readable_after_a_while || fail 'the device does not come back'

expect_exit 0 client -d /dev/nbd0
wait_until 5 detached nbd0 || fail '-d leaves the device attached'
wait_until 5 no_clients_left || fail 'a process outlives its device'
