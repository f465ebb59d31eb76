#!/bin/bash
# SPDX-License-Identifier: MIT
# The watchdog is killed under load, before an outage and in one; reattach takes over, no error.
# lab: time=480
. "$LAB/lib.sh"

truncate -s 32M store
serve_nbdkit store 127.0.0.1:10809 file "$PWD/store"

has_connections() { [ "$(connections_to 10809)" -eq "$connections" ]; }
all_connected() {
    wait_until 15 has_connections || fail "connections are $(connections_to 10809)"
    await_field 15 nbd0 STATE attached
}

for connections in 1 4; do
    expect_exit 0 client attach --connections "$connections" --reconnect-for forever \
        nbd://127.0.0.1/ /dev/nbd0
    start_load /dev/nbd0 --threads 4 --size 8388608
    sleep 1

    echo "connections: $connections, killed before an outage"
    kill_watchdog nbd0
    kill_server store
    sleep 1
    restart_server store
    expect_exit 0 client reattach /dev/nbd0
    all_connected

    echo "connections: $connections, killed in an outage"
    kill_server store
    wait_until 15 field_is nbd0 LIVE 0 || fail 'the outage is not seen'
    kill_watchdog nbd0
    expect_exit 0 client reattach /dev/nbd0
    restart_server store
    all_connected
    end_load
    await_field 15 nbd0 STATE attached
    expect_exit 0 client detach /dev/nbd0
done
wait_until 5 no_clients_left || fail 'a watchdog outlives its device'
