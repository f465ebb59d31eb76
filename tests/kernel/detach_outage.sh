#!/bin/bash
# SPDX-License-Identifier: MIT
# detach in an outage frees everybody who waits for the device, and nothing hangs or stays behind.
# lab: needs nbdkit
# lab: time=480
. "$LAB/lib.sh"

truncate -s 32M store
serve_nbdkit store 127.0.0.1:10809 file "$PWD/store"

# Users begun before and in the outage; all must end.
freed() { # CONNECTIONS BREAK
    local readers=() reader code start
    expect_exit 0 client attach --connections "$1" --reconnect-for forever nbd://127.0.0.1/ /dev/nbd0
    "$LAB_TOOLS/lab_verify" /dev/nbd0 --threads 4 --size 1048576 --until-file "$PWD/end" >before &
    readers=($!)
    sleep 1
    "$2" store
    sleep 1
    for _ in 1 2 3; do
        dd if=/dev/nbd0 of=/dev/null bs=4096 count=1 iflag=direct status=none 2>>dd.log &
        readers+=($!)
    done
    sleep 1
    start=$(milliseconds)
    touch end
    expect_exit 0 client detach --force /dev/nbd0
    echo "detached after $(($(milliseconds) - start)) ms"
    for reader in "${readers[@]}"; do
        wait_until 10 gone "$reader" || fail 'somebody still waits for the device'
        code=0
        wait "$reader" || code=$?
        [ "$code" -ne 0 ] || fail 'I/O succeeds without a server'
    done
    detached nbd0 || fail 'detach leaves the device attached'
    wait_until 5 no_clients_left || fail 'a watchdog outlives its device'
    [ $(($(milliseconds) - start)) -lt 15000 ] || fail 'detaching takes longer than 15 s'
    rm end
    [ "$2" = kill_server ] || kill_server store
    restart_server store
}
gone() { ! kill -0 "$1" 2>/dev/null; }

for connections in 1 4; do
    echo "killed, connections: $connections"
    freed "$connections" kill_server
    echo "frozen, connections: $connections"
    freed "$connections" freeze_server
done

echo 'nobody uses it: no force needed'
expect_exit 0 client attach nbd://127.0.0.1/ /dev/nbd0
kill_server store
wait_until 10 field_is nbd0 LIVE 0 || fail 'the outage is not seen'
expect_exit 0 client detach /dev/nbd0
detached nbd0 || fail 'detach leaves the device attached'
wait_until 5 no_clients_left || fail 'a watchdog outlives its device'
