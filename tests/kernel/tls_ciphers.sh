#!/bin/bash
# SPDX-License-Identifier: MIT
# Every cipher under both TLS versions, and shared keys: large and small requests, checked.
# lab: needs nbdkit openssl fio
. "$LAB/lib.sh"

make_pki
random_file store 32
printf 'alice:%s\n' "$(openssl rand -hex 32)" >keys.psk

verify() { # WHAT CLIENT-ARG...
    local what=$1
    shift
    expect_exit 0 client attach "$@" /dev/nbd0 --connections 1
    check_eq "$what: what is read" "$(device_sum /dev/nbd0)" "$(sum_of store)"
    fio --name="$what" --filename=/dev/nbd0 --size=8M --rw=randwrite --bsrange=512-1M --direct=1 \
        --ioengine=libaio --iodepth=8 --verify=crc32c --verify_fatal=1 --eta=never \
        --output="$PWD/fio" || { cat fio && fail "$what: fio finds something wrong"; }
    expect_exit 0 client detach /dev/nbd0
    echo "$what"
}

# Left alone, both sides prefer 1.3; GnuTLS takes such wishes from a file only.
printf '[overrides]\ndisabled-version = tls1.3\n' >only-1.2
: >only-1.3
for version in 1.2 1.3; do
    start_server "tls$version" 127.0.0.1:10809 \
        env GNUTLS_SYSTEM_PRIORITY_FILE="$PWD/only-$version" \
        nbdkit -f -i 127.0.0.1 --tls=require --tls-certificates="$PWD/pki" file "$PWD/store"
    for cipher in aes-128-gcm aes-256-gcm chacha20-poly1305; do
        verify "TLS $version $cipher" nbds://127.0.0.1/ --tls-ca tls/ca.pem --tls-ciphers "$cipher"
    done
    end_server "tls$version"
done

serve_nbdkit psk 127.0.0.1:10809 --tls=require --tls-psk="$PWD/keys.psk" file "$PWD/store"
verify 'shared key' nbds://alice@127.0.0.1/ --tls-psk keys.psk
check_eq 'records that could not be decrypted' "$(tls_count TlsDecryptError)" 0
