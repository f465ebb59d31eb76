#!/bin/bash
# SPDX-License-Identifier: MIT
# The reference nbd-server's TLS is understood, forced and offered.
# shellcheck source=tests/interop/lib.sh
. "${0%/*}/lib.sh"
need nbd-server openssl python3

make_authority ca
make_certificate ca server IP:127.0.0.1
make_certificate ca us DNS:us
tls=$LAB_SCRATCH/tls
random_file "$LAB_SCRATCH/disk" 3
# It asks for a certificate of ours, but does not insist.
options=(--tls-ca "$tls/ca.pem" --tls-cert "$tls/us.pem" --tls-key "$tls/us.key")
files="certfile = $tls/server.pem
keyfile = $tls/server.key
cacertfile = $tls/ca.pem"

offered=127.0.0.1:$(free_port) generic=$files
serve_nbd_server offered "$offered" "vm-storage=$LAB_SCRATCH/disk"
check_export "nbds://$offered/vm-storage" vm-storage 3145728
check_listed "nbds://$offered/" vm-storage ''
(options=() && check_export "nbd://$offered/vm-storage" vm-storage 3145728)

forced=127.0.0.1:$(free_port) generic="$files
force_tls = true"
serve_nbd_server forced "$forced" "vm-storage=$LAB_SCRATCH/disk"
check_export "nbds://$forced/vm-storage" vm-storage 3145728
check_refused 7 'requires TLS' 'nbds://' client info "nbd://$forced/vm-storage"

plain=127.0.0.1:$(free_port) generic=''
serve_nbd_server plain "$plain" "vm-storage=$LAB_SCRATCH/disk"
check_refused 7 'the server has no TLS' 'without protection' \
    client info "nbds://$plain/vm-storage" "${options[@]}"
