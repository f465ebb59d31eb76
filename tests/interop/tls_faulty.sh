#!/bin/bash
# SPDX-License-Identifier: MIT
# Servers whose TLS is odd are understood; those that break it off in the handshake get one sentence.
# shellcheck source=tests/interop/lib.sh
. "${0%/*}/lib.sh"
need openssl python3

make_pki
random_file "$LAB_SCRATCH/disk" 2
options=(--tls-ca "$LAB_SCRATCH/tls/ca.pem")

serve() { # SETTING...; at $address
    address=127.0.0.1:$(free_port)
    serve_faulty "$address" "$address" "$LAB_SCRATCH/disk" "$@"
}

for settings in tickets=0 tickets=2 tickets=8 record=1 record=512 padding=512 padding=16384 \
    'record=100 padding=64 tickets=8' version=1.3 version=1.2 'version=1.2 record=1' \
    at-option=ticket at-option=key-update at-option=key-update-requested; do
    echo "$settings"
    # shellcheck disable=SC2086 # a list of words
    serve $settings
    check_export "nbds://$address/disk" disk 2097152
    check_listed "nbds://$address/" disk ''
done

for cipher in TLS_AES_128_GCM_SHA256 TLS_CHACHA20_POLY1305_SHA256 ECDHE-ECDSA-AES256-GCM-SHA384; do
    version=1.2
    [[ $cipher != TLS_* ]] || version=1.3
    serve version=$version ciphers=$cipher tickets=8
    check_export "nbds://$address/disk" disk 2097152
done

# Each fault has one cause, whatever was asked.
breaks() { # CAUSE SETTING...
    local cause=$1 verb
    shift
    serve "$@"
    echo "$*"
    for verb in info exports 'attach --dry-run'; do
        # shellcheck disable=SC2086 # two words on purpose
        expect_exit 7 client $verb "nbds://$address/disk" "${options[@]}"
        check_eq 'stdout' "$out" ''
        check_match 'the sentence' "$(grep -v '^hint: ' <<<"$err")" \
            "^nbd-client: cannot (query|list|open) [^:]* of $address: $cause\$"
    done
}
for version in 1.2 1.3; do
    breaks 'the server ends TLS \(alert "bad record mac"\)' at-option=alert version=$version
    for end in close-notify fin rst; do
        breaks 'the connection was closed by the server' at-option=$end version=$version
    done
    breaks 'what the server sends does not belong to this connection .*bad record mac\)' at-option=corrupt version=$version
done
