#!/bin/bash
# SPDX-License-Identifier: MIT
# --reconnect-for: I/O waits that long, then fails; the device revives when the server returns.
# lab: needs nbdkit
. "$LAB/lib.sh"

random_file store 16
serve_nbdkit store 127.0.0.1:10809 file "$PWD/store"
expect_exit 0 client attach --reconnect-for 10s nbd://127.0.0.1/ /dev/nbd0
sum=$(sum_of store)

kill_server store
start=$(milliseconds)
dd if=/dev/nbd0 of=/dev/null bs=4096 count=1 iflag=direct status=none 2>dd.log &
reader=$!
sleep 2

echo 'list in an outage'
expect_exit 0 client list --json
check_eq 'the state' "$(json 'd["devices"][0]["state"]')" reconnecting
check_eq 'live connections' "$(json 'd["devices"][0]["live_connections"]')" 0
check_eq 'reconnects' "$(json 'd["devices"][0]["reconnects"]')" 0
check_match 'the reason' "$(json 'd["devices"][0]["last_error"]')" 'refused'
check_eq 'the clock' "$(json 'sum((__import__("datetime").datetime.fromisoformat(
    d["devices"][0][k].replace("Z", "+00:00")).timestamp()) * s for k, s in
    (("fails_at", 1), ("since", -1))) in (9, 10, 11)')" True
expect_exit 0 client list
check_match 'what list says' "$out" reconnecting
expect_exit 0 client check /dev/nbd0

echo 'the end of patience'
code=0
wait "$reader" || code=$?
took=$(($(milliseconds) - start))
echo "the read fails after $took ms"
check_eq 'the code of the read' "$code" 1
((took > 8500 && took < 16000)) || fail "the read fails after $took ms"
await_field 5 nbd0 STATE failing
dmesg | grep -q 'I/O fails from now on' || fail 'nothing is said about it'
run dd if=/dev/nbd0 of=/dev/null bs=4096 count=1 iflag=direct
check_eq 'the code of a later read' "$code" 1

echo 'the server returns'
restart_server store
await_field 15 nbd0 STATE attached
check_eq 'reconnects' "$(field nbd0 RECONNECTS)" 1
check_eq 'what is read' "$(device_sum /dev/nbd0)" "$sum"
expect_exit 0 "$LAB_TOOLS/lab_verify" /dev/nbd0 --seconds 1 --threads 4
expect_exit 0 client detach /dev/nbd0
