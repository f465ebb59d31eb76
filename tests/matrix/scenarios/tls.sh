#!/bin/bash
# SPDX-License-Identifier: MIT
# TLS in the kernel on two processors: every cipher; restarts, new keys and farewells under load; the
# relay.
# lab: time=480
. "$LAB/lib.sh"

make_pki
random_file store 4
uri=nbds://127.0.0.1/store
ca=$PWD/tls/ca.pem

attach() { # CLIENT-ARG...
    expect_exit 0 client attach "$uri" /dev/nbd0 --tls-ca "$ca" --reconnect-for forever "$@"
}

detach() {
    expect_exit 0 client detach /dev/nbd0
    wait_until 5 no_clients_left || fail 'a process outlives its device'
    check_eq 'protected sockets left' "$(tls_count TlsCurrTxSw) $(tls_count TlsCurrRxSw)" '0 0'
}

check_by_kernel() { # CONNECTIONS; the kernel does it, and nobody else looks on but the watchdog
    check_eq 'OFFLOAD' "$(field nbd0 OFFLOAD)" ktls
    check_eq 'sockets that send by the kernel' "$(tls_count TlsCurrTxSw)" "$1"
    check_eq 'sockets that receive by the kernel' "$(tls_count TlsCurrRxSw)" "$1"
    check_eq 'processes of ours' "$(client_processes)" 1
    check_eq 'relays' "$(relays)" ''
    check_eq 'who holds connections' "$(holders_of 10809)" "$(field nbd0 PID) $1"
}

check_data() {
    check_eq 'what is read' "$(device_sum /dev/nbd0)" "$(sum_of store)"
    random_file new 4
    dd if=new of=/dev/nbd0 bs=1M oflag=direct status=none
    check_eq 'what is read back' "$(device_sum /dev/nbd0)" "$(sum_of new)"
    check_eq 'what the server has' "$(sum_of store)" "$(sum_of new)"
}

# Left alone, both sides prefer 1.3; GnuTLS takes such wishes from a file only.
printf '[overrides]\ndisabled-version = tls1.3\n' >only-1.2
: >only-1.3
connections=4
for version in 1.2 1.3; do
    GNUTLS_SYSTEM_PRIORITY_FILE=$PWD/only-$version \
        serve_tls "tls$version" 127.0.0.1:10809 file "$PWD/store"
    for cipher in aes-128-gcm aes-256-gcm chacha20-poly1305; do
        connections=$((5 - connections))
        echo "TLS $version $cipher, $connections connections"
        attach --tls-ciphers "$cipher" --connections "$connections"
        check_by_kernel "$connections"
        check_data
        detach
    done
    end_server "tls$version"
done
check_eq 'records that could not be decrypted' "$(tls_count TlsDecryptError)" 0

serve_tls store 127.0.0.1:10809 file "$PWD/store"

for connections in 1 4; do
    echo "restarts, $connections connections"
    attach --connections "$connections"
    start_load /dev/nbd0 --threads 4 --size 4194304
    sleep 1
    for seconds in 1 0 0; do
        outage store "$seconds"
        sleep "0.$((RANDOM % 9 + 1))"
    done
    await_field 20 nbd0 LIVE "$connections"
    await_field 5 nbd0 STATE attached
    end_load
    echo "recovery tls connections=$connections $(figures)"
    rm -f timeline outages
    check_by_kernel "$connections"
    detach
done
end_server store

serve_faulty faulty 127.0.0.1:10809 "$PWD/store" orders=/run/faulty.orders
for connections in 1 4; do
    echo "new keys and farewells, $connections connections"
    attach --connections "$connections"
    start_load /dev/nbd0 --threads 4 --size 4194304
    for fault in key-update close-notify key-update-requested close-notify; do
        before=$(field nbd0 RECONNECTS)
        order faulty "$fault"
        wait_until 20 has_reconnected nbd0 $((before + connections)) || fail 'a connection is not replaced'
        await_field 20 nbd0 LIVE "$connections"
        sleep "0.$((RANDOM % 9 + 1))"
    done
    end_load
    check_by_kernel "$connections"
    detach
done
end_server faulty

echo 'the relay, and a restart'
serve_tls relayed 127.0.0.1:10809 file "$PWD/store"
attach --connections 1 --tls-offload never
check_eq 'OFFLOAD' "$(field nbd0 OFFLOAD)" relay
check_eq 'relays' "$(relays | wc -l)" 1
check_eq 'protected sockets' "$(tls_count TlsCurrTxSw)" 0
check_data
start_load /dev/nbd0 --threads 4 --size 4194304
sleep 1
outage relayed 0
await_field 20 nbd0 STATE attached
end_load
detach
