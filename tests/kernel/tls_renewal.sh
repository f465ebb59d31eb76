#!/bin/bash
# SPDX-License-Identifier: MIT
# Connections get new keys under load before the old ones are worn out: no error, and no request waits.
# lab: needs nbdkit openssl
# lab: time=480
. "$LAB/lib.sh"

make_pki
truncate -s 32M store
serve_tls store 127.0.0.1:10809 file "$PWD/store"

serve_faulty slow 127.0.0.1:10810 "$PWD/store" flush=100

ports() { local_ports "$port"; }
port_count_is() { [ "$(ports | wc -l)" -eq "$1" ]; }
renewed() { port_count_is "$connections" && [ "$(ports)" != "$1" ]; } # PORTS-BEFORE

waited=0
renew_under_load() { # PORT CONNECTIONS RECORDS VERIFY-ARG...
    port=$1 connections=$2
    local usual renewals=0 before load_line
    expect_exit 0 client attach "nbds://127.0.0.1:$port/" /dev/nbd0 --tls-ca tls/ca.pem \
        --connections "$connections" --tls-ciphers aes-128-gcm --tls-rekey-after "$3"
    usual=$(</sys/block/nbd0/queue/nr_requests)
    start_load /dev/nbd0 --size 8388608 "${@:4}"
    for _ in {1..5}; do
        # One processor uses the first connection only: that one is renewed again and again.
        before=$(ports)
        wait_until 40 renewed "$before" || fail 'no connection is renewed'
        renewals=$((renewals + 1))
        sleep 0.5
    done
    end_load
    load_line=$(<"$LAB_SCRATCH/load")
    echo "connections=$connections ${*:4} renewals=$renewals $load_line"
    # A request whose connection ends waits for its timer of 4 seconds.
    [[ $load_line =~ max_latency_ms=([0-9]+) ]]
    [ "${BASH_REMATCH[1]}" -lt 3000 ] || waited=$((waited + 1))
    check_eq 'reconnects' "$(field nbd0 RECONNECTS)" 0
    check_eq 'nr_requests' "$(</sys/block/nbd0/queue/nr_requests)" "$usual"
    wait_until 5 port_count_is "$connections" || fail "connections are $(ports)"
    expect_exit 0 client detach /dev/nbd0
}

for connections in 1 4; do
    for threads in 1 8; do renew_under_load 10809 "$connections" 1000 --threads "$threads"; done
done
# There is nearly always a flush under way.
renew_under_load 10810 1 100 --threads 4 --sync
# On a busy machine a request may slip in between the last look and the end of the connection.
[ "$waited" -le 2 ] || fail 'requests have waited for their timers'
