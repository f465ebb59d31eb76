#!/bin/bash
# SPDX-License-Identifier: MIT
# Over TLS the kernel itself encrypts: the device has the server's data and no process carries it.
# lab: needs nbdkit openssl
. "$LAB/lib.sh"

make_pki
ca=$PWD/tls/ca.pem
random_file store 16
serve_tls store 127.0.0.1:10809 file "$PWD/store"

check_device() { # CONNECTIONS; what is attached to nbd0 is the store, through the kernel's TLS
    check_eq 'sockets that send by the kernel' "$(tls_count TlsCurrTxSw)" "$1"
    check_eq 'sockets that receive by the kernel' "$(tls_count TlsCurrRxSw)" "$1"
    check_eq 'TLS' "$(field nbd0 TLS)" 1
    check_eq 'OFFLOAD' "$(field nbd0 OFFLOAD)" ktls
    check_eq 'what is read' "$(device_sum /dev/nbd0)" "$(sum_of store)"
    random_file new 16
    dd if=new of=/dev/nbd0 bs=1M oflag=direct status=none
    check_eq 'what is read back' "$(device_sum /dev/nbd0)" "$(sum_of new)"
}

check_detached() {
    detached nbd0 || fail 'it is still attached'
    check_eq 'what was written' "$(sum_of store)" "$(sum_of new)"
    wait_until 5 no_clients_left || fail 'a process outlives its device'
    check_eq 'sockets left' "$(tls_count TlsCurrTxSw)" 0
    check_eq 'records that could not be decrypted' "$(tls_count TlsDecryptError)" 0
}

echo 'by URI'
expect_exit 0 client attach nbds://127.0.0.1/store /dev/nbd0 --tls-ca "$ca" --connections 1
check_eq 'the answer' "$out" /dev/nbd0
check_eq 'stderr' "$err" ''
check_device 1
check_eq 'processes of ours' "$(client_processes)" 1
expect_exit 0 client detach /dev/nbd0
check_detached

echo 'by the classic command line'
expect_exit 0 client -x -A "$ca" 127.0.0.1 10809 /dev/nbd0 -N store
check_match 'stdout' "$out" 'Connected /dev/nbd0$'
check_match 'the price of nobody there' "$err" 'TLS in the kernel without reconnecting'
check_device "$(field nbd0 CONNS)"
check_eq 'processes of ours' "$(client_processes)" 0
expect_exit 0 client -d /dev/nbd0
check_detached

echo 'by nbdtab, with the old names, relative to where we are'
echo "nbd0 127.0.0.1 store cacertfile=tls/ca.pem,tlshostname=localhost,connections=4" >table
expect_exit 0 client attach --nbdtab table --tab nbd0
check_device 4
expect_exit 0 client detach /dev/nbd0
check_detached

echo 'asking needs no kernel'
expect_exit 0 client info --json nbds://localhost/store --tls-ca "$ca"
check_eq 'size' "$(json 'd["size"]')" 16777216
expect_exit 0 client -l 127.0.0.1 10809 -A "$ca"
