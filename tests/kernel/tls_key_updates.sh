#!/bin/bash
# SPDX-License-Identifier: MIT
# Thirty times new keys from the server under load: each ends the connection, none costs an error.
# lab: needs openssl
# lab: time=240
. "$LAB/lib.sh"

make_pki
truncate -s 16M store
serve_faulty store 127.0.0.1:10809 "$PWD/store" orders=/run/store.orders
expect_exit 0 client attach nbds://127.0.0.1/store /dev/nbd0 --tls-ca tls/ca.pem --connections 1 \
    --tls-offload require
start_load /dev/nbd0 --threads 4 --size 8388608

is_replaced() { # PORT
    local now
    now=$(local_ports 10809)
    [ -n "$now" ] && [[ $now != *"$1"* ]]
}

for update in {1..30}; do
    before=$(local_ports 10809)
    # GnuTLS only tells of its new keys; others want ours changed as well.
    how=key-update
    [ $((update % 3)) -ne 0 ] || how=key-update-requested
    order store "$how" >/dev/null
    wait_until 20 is_replaced "$before" || fail "update $update leaves the connection at $before"
    await_field 10 nbd0 RECONNECTS "$update"
    # In the midst of requests, and when those before have been sent again.
    pause "0.$((RANDOM % 9 + 1))"
    [ $((update % 10)) -ne 0 ] || sleep 5
done
end_load
await_field 10 nbd0 STATE attached
check_eq 'reconnects' "$(field nbd0 RECONNECTS)" 30
check_eq 'sockets that send by the kernel' "$(tls_count TlsCurrTxSw)" 1
check_eq 'sockets that receive by the kernel' "$(tls_count TlsCurrRxSw)" 1
check_eq 'relays' "$(relays)" ''
expect_exit 0 client detach /dev/nbd0
