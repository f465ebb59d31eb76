#!/bin/bash
# SPDX-License-Identifier: MIT
# Seven ways for TLS not to be what was asked for: seven sentences, exit 7, nothing attached.
# lab: needs nbdkit openssl python3
. "$LAB/lib.sh"

make_authority ca
make_authority other
make_certificate ca good IP:127.0.0.1
make_certificate ca wrong_name DNS:elsewhere.example,IP:10.0.0.1
make_certificate ca expired IP:127.0.0.1 20200101000000Z 20210101000000Z
(
    cd tls
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 \
        -subj /CN=alone -addext subjectAltName=IP:127.0.0.1 -keyout alone.key -out alone.pem
) >/dev/null 2>&1
truncate -s 16M store
port=10810

serve() { # CERTIFICATE NBDKIT-ARG...; a server of its own port, $uri
    local name=$1
    shift
    port=$((port + 1))
    lay_out_certificates "$PWD/$name.pki" ca "$name"
    serve_nbdkit "$name.$port" "127.0.0.1:$port" --tls=require --tls-certificates="$PWD/$name.pki" \
        "$@" file "$PWD/store"
    uri=nbds://127.0.0.1:$port/
}

refused() { # SENTENCE HINT
    expect_exit 7 client attach "$uri" /dev/nbd0 --tls-ca tls/ca.pem
    check_eq 'stdout' "$out" ''
    check_match 'the sentence' "$err" "^nbd-client: cannot .*127.0.0.1:$port: $1"
    check_match 'the hint' "$err" $'\n'"hint: .*$2"
    detached nbd0 || fail 'it is attached all the same'
    sed -n 1p <<<"$err" | tee -a sentences
    no_clients_left || fail 'a process is left'
}

serve good
expect_exit 7 client attach "$uri" /dev/nbd0 --tls-ca tls/other.pem
check_match 'the sentence' "$err" \
    'vouched for by "CN=authority ca", which is not among the authorities in .*/tls/other.pem'
sed -n 1p <<<"$err" | tee sentences
serve wrong_name
refused 'the server.s certificate is not for "127.0.0.1" but for elsewhere.example, 10.0.0.1' \
    '--tls-hostname'
serve expired
refused 'the server.s certificate has expired on 2021-01-01T00:00:00Z' 'clock'
serve alone
refused 'the server.s certificate is self-signed \("CN=alone"\)' '--tls-ca'
serve good --tls-verify-peer
refused 'the server .* a certificate of ours(,| and) got none' '--tls-cert'

port=$((port + 1)) uri=nbds://127.0.0.1:$port/
serve_nbdkit plain "127.0.0.1:$port" --tls=off file "$PWD/store"
refused 'the server has no TLS \(NBD_REP_ERR_' 'without protection'

# Somebody in between who answers in the server's stead.
port=$((port + 1)) uri=nbds://127.0.0.1:$port/
start_server stripper "127.0.0.1:$port" /usr/bin/python3 -c '
import socket, sys
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    client = listener.accept()[0]
    client.sendall(b"NBDMAGICIHAVEOPT\0\3")
    client.recv(4 + 16, socket.MSG_WAITALL)
    client.close()' "$port"
refused 'asked for TLS, the server does not answer as it should' 'suppress TLS'

check_eq 'sentences' "$(sed 's/:[0-9]*:/:/' sentences | sort -u | wc -l)" 7
check_eq 'sockets of the kernel' "$(tls_count TlsCurrTxSw)" 0

echo 'a plain client is told what the server demands'
uri=nbd://127.0.0.1:10811/
expect_exit 7 client attach "$uri" /dev/nbd0
check_match 'the sentence' "$err" 'the server requires TLS'
check_match 'the hint' "$err" 'use nbds://'
detached nbd0 || fail 'it is attached in the clear'

echo 'and the only way out is loud'
uri=nbds://127.0.0.1:10812/
expect_exit 7 client attach "$uri?tls-verify-peer=0" /dev/nbd0
check_match 'the sentence' "$err" 'tls-verify-peer=0 would trust anybody'
expect_exit 0 client attach "$uri" /dev/nbd0 --tls-insecure
check_match 'the warning' "$err" 'TLS without checking who the server is'
expect_exit 0 client detach /dev/nbd0
