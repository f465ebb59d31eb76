#!/bin/bash
# SPDX-License-Identifier: MIT
# One of four connections cut: that one is replaced, the others stay. All four cut: all are replaced.
# lab: needs nbdkit
. "$LAB/lib.sh"

truncate -s 32M store
serve_nbdkit store 127.0.0.1:10809 file "$PWD/store"
start_proxy cable 127.0.0.1:10810 127.0.0.1:10809

ports() { local_ports 10810; }
same_ports() { # BEFORE: how many of them are still there
    comm -12 <(echo "$1") <(ports) | wc -l
}

expect_exit 0 client attach --connections 4 nbd://127.0.0.1:10810/ /dev/nbd0
before=$(ports)
check_eq 'connections' "$(wc -l <<<"$before")" 4
start_load /dev/nbd0 --threads 8 --size 8388608

echo 'one of four'
for victim in 1 3; do
    before=$(ports) replaced=$(field nbd0 RECONNECTS)
    order cable cut "$victim"
    wait_until 10 has_reconnected nbd0 $((replaced + 1)) || fail 'the connection is not replaced'
    await_field 10 nbd0 STATE attached
    check_eq 'connections' "$(ports | wc -l)" 4
    check_eq 'connections that stayed' "$(same_ports "$before")" 3
    check_eq 'connections that were replaced' "$(field nbd0 RECONNECTS)" $((replaced + 1))
done

echo 'all four'
before=$(ports)
order cable cutall
wait_until 10 has_reconnected nbd0 6 || fail 'the connections are not replaced'
await_field 10 nbd0 STATE attached
check_eq 'connections' "$(ports | wc -l)" 4
check_eq 'connections that stayed' "$(same_ports "$before")" 0
sleep 6
end_load
check_eq 'connections that were replaced' "$(field nbd0 RECONNECTS)" 6
expect_exit 0 client detach /dev/nbd0
