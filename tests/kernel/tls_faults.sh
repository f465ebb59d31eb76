#!/bin/bash
# SPDX-License-Identifier: MIT
# What a TLS server may do at any time, or do wrong, under load: digested or a pause, never an error.
# lab: needs openssl iptables-legacy
# lab: time=300
. "$LAB/lib.sh"

make_pki
random_file store 4

serve() { # SETTING=VALUE...
    serve_faulty store 127.0.0.1:10809 "$PWD/store" orders=/run/store.orders "$@"
}

attach() { # OFFLOAD CONNECTIONS
    offload=$1 connections=$2
    local how=require
    [ "$offload" = ktls ] || how=never
    expect_exit 0 client attach nbds://127.0.0.1/store /dev/nbd0 --tls-ca "$PWD/tls/ca.pem" \
        --connections "$connections" --tls-offload "$how"
    check_eq 'what is read' "$(device_sum /dev/nbd0)" "$(sum_of store)"
    start_load /dev/nbd0 --threads 2 --size 4194304
}

detach() {
    end_load
    await_field 10 nbd0 STATE attached
    wait_until 5 carried_rightly || fail "relays: $(relays); the kernel sends on $(tls_count \
        TlsCurrTxSw) and receives on $(tls_count TlsCurrRxSw) sockets of its TLS"
    check_eq 'what is read' "$(device_sum /dev/nbd0)" "$(sum_of store)"
    expect_exit 0 client detach /dev/nbd0
    wait_until 5 no_clients_left || fail 'a process outlives its device'
}

carried_rightly() {
    local by_kernel=$connections by_relay=0
    [ "$offload" = ktls ] || by_kernel=0 by_relay=$connections
    [ "$(tls_count TlsCurrTxSw) $(tls_count TlsCurrRxSw) $(relays | wc -l)" = \
        "$by_kernel $by_kernel $by_relay" ]
}

commit() { # FAULT; on every connection at once
    local answer
    answer=$(order store "$1")
    [ "${answer##* }" -ge "$connections" ] || fail "not on every connection: $answer"
}

is_survived() { # FAULT...; each is new connections
    local fault before
    for fault; do
        before=$(field nbd0 RECONNECTS)
        commit "$fault"
        wait_until 20 has_reconnected nbd0 $((before + connections)) ||
            fail "$offload: $fault on $connections connections is followed by" \
                "$(($(field nbd0 RECONNECTS) - before)) new ones"
        pause "0.$((RANDOM % 5 + 1))"
    done
    echo "$offload, $connections connections: $* survived"
}

is_digested() { # FAULT...; by the very connections there are
    local fault before
    before="$(field nbd0 RECONNECTS) $(relays)"
    for fault in "$@" "$@"; do
        commit "$fault"
        pause 0.3
    done
    check_eq 'reconnects and relays' "$(field nbd0 RECONNECTS) $(relays)" "$before"
    echo "$offload, $connections connections: $* digested"
}

ends=(alert close-notify corrupt fin rst)
messages=(key-update key-update-requested ticket)

for count in 1 4; do
    serve
    attach ktls "$count"
    before=$(tls_count TlsDecryptError)
    is_survived "${messages[@]}" "${ends[@]}"
    [ "$count" -gt 1 ] || is_survived "${messages[@]}" "${ends[@]}"
    [ "$(tls_count TlsDecryptError)" -ge $((before + count)) ] || fail 'no record was corrupt'
    detach

    attach relay "$count"
    is_digested "${messages[@]}"
    is_survived "${ends[@]}"
    detach
    end_server store
done

for setting in 'tickets=0 record=512' 'tickets=8 padding=4096' record=100 'version=1.2 record=512'; do
    # shellcheck disable=SC2086 # a list of words
    serve $setting
    for way in ktls relay; do
        attach "$way" 1
        pause 1
        check_eq "reconnects with $setting over $way" "$(field nbd0 RECONNECTS)" 0
        detach
    done
    echo "$setting digested"
    end_server store
done

echo 'a server that ends the connection later than we do is not taken for a slow one'
serve
attach ktls 1
swallow_ends() { # -A or -D
    local flag
    for flag in FIN RST; do
        iptables-legacy "$1" INPUT -i lo -p tcp --sport 10809 --tcp-flags "$flag" "$flag" -j DROP
    done
}
timer=$(</sys/block/nbd0/queue/io_timeout)
swallow_ends -A
commit key-update
await_field 20 nbd0 RECONNECTS 1
swallow_ends -D
check_eq 'the timer of a request' "$(</sys/block/nbd0/queue/io_timeout)" "$timer"
detach
