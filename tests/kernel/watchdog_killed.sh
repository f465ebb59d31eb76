#!/bin/bash
# SPDX-License-Identifier: MIT
# The watchdog is dispensable: killed before, in and after an outage, a new one takes over, no error.
# lab: needs nbdkit
# lab: time=480
. "$LAB/lib.sh"

truncate -s 32M store
serve_nbdkit store 127.0.0.1:10809 file "$PWD/store"

has_connections() { [ "$(connections_to 10809)" -eq "$1" ]; }
all_connected() {
    wait_until 15 has_connections "$connections" || fail "connections are $(connections_to 10809)"
    await_field 15 nbd0 STATE attached
}

watchdog() { field nbd0 PID; }
kill_it() {
    kill_watchdog nbd0
    check_eq 'the watchdog in the list' "$(watchdog)" ''
}

for connections in 1 4; do
    echo "connections: $connections"
    expect_exit 0 client attach --connections "$connections" nbd://127.0.0.1/ /dev/nbd0
    start_load /dev/nbd0 --threads 4 --size 8388608

    echo 'two at a time are refused'
    expect_exit 5 client reattach /dev/nbd0
    check_match 'the reason' "$err" "process $(watchdog) watches it"

    echo 'killed while all is well, the server restarts after the new one has come'
    kill_it
    sleep 1
    expect_exit 0 client reattach /dev/nbd0
    check_eq 'the answer' "$out" /dev/nbd0
    outage store 1
    all_connected

    echo 'killed, then the server restarts, then a new one comes'
    kill_it
    outage store 1
    sleep 2
    expect_exit 0 client reattach /dev/nbd0
    all_connected

    echo 'killed in an outage'
    kill_server store
    wait_until 10 field_is nbd0 LIVE 0 || fail 'the outage is not seen'
    kill_it
    sleep 1
    expect_exit 0 client reattach /dev/nbd0
    restart_server store
    all_connected

    echo 'killed after an outage, one that the new one has to see without having seen the sockets'
    outage store 0
    await_field 15 nbd0 STATE attached
    kill_it
    expect_exit 0 client reattach /dev/nbd0
    outage store 1
    all_connected
    sleep 5
    end_load
    expect_exit 0 client detach /dev/nbd0
    wait_until 5 no_clients_left || fail 'a watchdog outlives its device'
done
