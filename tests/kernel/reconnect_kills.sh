#!/bin/bash
# SPDX-License-Identifier: MIT
# Thirty kills of the server under load are thirty pauses: no error, no wrong block, quick recovery.
# lab: needs nbdkit fio
# lab: time=480
. "$LAB/lib.sh"
connections=${connections:-1}

truncate -s 64M store
serve_nbdkit store 127.0.0.1:10809 file "$PWD/store"
expect_exit 0 client 127.0.0.1 10809 /dev/nbd0 -N store -persist -C "$connections"
check_eq 'connections' "$(connections_to 10809)" "$connections"
start_load /dev/nbd0 --threads 8 --size 16777216
# Another judge, on the other half of the device.
fio --name=judge --filename=/dev/nbd0 --offset=32M --size=8M --rw=randwrite --bsrange=4k-64k \
    --direct=1 --ioengine=psync --numjobs=1 --verify=crc32c --verify_fatal=1 --loops=1000 \
    --time_based --runtime=90 --eta=never --output="$PWD/fio" &
fio=$!

# Ten with time to finish, for the figures; then twenty into what is still recovering.
for seconds in 1 1 1 1 1 1 1 1 1 5; do
    outage store "$seconds"
    sleep 5.5
done
measured=$(figures)
for seconds in 0 0 1 0 1 0 0 0 1 0 0 1 0 0 0 5 0 0 1 0; do
    outage store "$seconds"
    sleep "0.$((RANDOM % 9 + 1))"
done
check_eq 'outages' "$(wc -l <outages)" 30

end_load
wait "$fio" || { cat fio && fail 'fio finds something wrong'; }
echo "recovery connections=$connections $measured"
[[ $measured =~ all_max=([0-9]+) ]]
[ "${BASH_REMATCH[1]}" -lt 6000 ] || fail 'a request waits longer than 6 s after the return'
await_field 10 nbd0 STATE attached
check_eq 'live connections' "$(field nbd0 LIVE)" "$connections"
expect_exit 0 client detach /dev/nbd0
