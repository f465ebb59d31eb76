#!/bin/bash
# SPDX-License-Identifier: MIT
# Attaching, breaking and detaching, over and over, while somebody keeps opening the node as udev does.
# lab: needs nbdkit
# lab: time=540
. "$LAB/lib.sh"

truncate -s 16M store
serve_nbdkit store 127.0.0.1:10809 file "$PWD/store"

# In the shell alone: starting a program costs this kernel more than the round it is to disturb.
probe() {
    while [ ! -e probing-ends ]; do
        { read -rN 512 _ </dev/nbd0; } 2>/dev/null || true
        pause 0.0$((RANDOM % 10))
    done
}
probe &
prober=$!
kill_it() { # without starting a program
    [[ $(</run/nbd/nbd0.json) =~ '"pid":'\ *([0-9]+) ]] || fail 'the status names no watchdog'
    kill -KILL "${BASH_REMATCH[1]}"
}

start=$SECONDS rounds=0
while [ "$rounds" -lt 240 ] && [ $((SECONDS - start)) -lt 480 ]; do
    connections=$((rounds % 3 == 0 ? 4 : 1))
    expect_exit 0 client attach --connections "$connections" --reconnect-for forever nbd://127.0.0.1/ /dev/nbd0
    case $((rounds % 8)) in
        1) kill_it ;;
        3) kill_server store ;;
        5) kill_it
           kill_server store
           restart_server store
           expect_exit 0 client reattach /dev/nbd0 ;;
        7) kill_server store
           restart_server store
           await_field 10 nbd0 STATE attached ;;
    esac
    # The prober may be the one who has it open, which the first goodbye must not mind.
    expect_exit 0 client detach /dev/nbd0
    detached nbd0 || fail 'detach leaves the device attached'
    [ $((rounds % 8)) -ne 3 ] || restart_server store
    rounds=$((rounds + 1))
done
touch probing-ends
wait "$prober"
echo "$rounds rounds in $((SECONDS - start)) s"
[ "$rounds" -ge 150 ] || fail 'too few rounds to tell anything'
wait_until 5 no_clients_left || fail 'watchdogs stay behind'
check_eq 'devices' "$(client list)" ''
