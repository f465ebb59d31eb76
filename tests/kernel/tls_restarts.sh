#!/bin/bash
# SPDX-License-Identifier: MIT
# Thirty restarts of a server with TLS under load: each is a new handshake and a pause, no error.
# lab: needs nbdkit openssl
# lab: time=480
. "$LAB/lib.sh"

make_pki
cp tls/ca.pem ca.pem
truncate -s 64M store
serve_tls store 127.0.0.1:10809 file "$PWD/store"
expect_exit 0 client attach nbds://127.0.0.1/store /dev/nbd0 --tls-ca ca.pem --connections 1
start_load /dev/nbd0 --threads 8 --size 16777216

for seconds in 1 1 1 1 1 1 1 1 1 1; do
    outage store "$seconds"
    sleep 4.5
done
measured=$(figures)
for seconds in 0 0 1 0 1 0 0 0 1 0; do
    outage store "$seconds"
    sleep "0.$((RANDOM % 9 + 1))"
done

echo 'new certificates on both sides, in the midst of it'
make_authority other
make_certificate other server IP:127.0.0.1
lay_out_certificates "$PWD/pki" other server
cp tls/other.pem ca.pem
outage store 0
sleep 5
echo 'a file that has gone is not missed'
rm ca.pem
for seconds in 0 1 0 0 1 0 0 0 1; do
    outage store "$seconds"
    sleep "0.$((RANDOM % 9 + 1))"
done
check_eq 'outages' "$(wc -l <outages)" 30

end_load
echo "recovery tls $measured"
[[ $measured =~ all_max=([0-9]+) ]]
[ "${BASH_REMATCH[1]}" -lt 6000 ] || fail 'a request waits longer than 6 s after the return'
await_field 10 nbd0 STATE attached
check_eq 'sockets that send by the kernel' "$(tls_count TlsCurrTxSw)" 1
check_eq 'records that could not be decrypted' "$(tls_count TlsDecryptError)" 0
expect_exit 0 client detach /dev/nbd0
