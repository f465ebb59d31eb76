#!/bin/bash
# SPDX-License-Identifier: MIT
# qemu-nbd's TLS is understood: certificates of both sides, and shared keys.
# shellcheck source=tests/interop/lib.sh
. "${0%/*}/lib.sh"
need qemu-nbd openssl python3

make_authority ca
make_certificate ca server IP:127.0.0.1
make_certificate ca us DNS:us
pki=$LAB_SCRATCH/pki tls=$LAB_SCRATCH/tls
lay_out_certificates "$pki" ca server
random_file "$LAB_SCRATCH/disk" 2
options=(--tls-ca "$tls/ca.pem")

serve() { # NAME TLS-OBJECT; at $address
    address=127.0.0.1:$(free_port)
    serve_qemu_nbd "$1" "$address" -x "$1" --object "$2,id=tls0,endpoint=server" \
        --tls-creds tls0 "$LAB_SCRATCH/disk"
}

serve one-sided "tls-creds-x509,dir=$pki,verify-peer=off"
check_export "nbds://$address/one-sided" one-sided 2097152
check_listed "nbds://$address/" one-sided ''
check_refused 7 'requires TLS' 'nbds://' client info "nbd://$address/one-sided"
check_refused 3 '"absent"' 'nbd-client exports' client info "nbds://$address/absent" "${options[@]}"

serve mutual "tls-creds-x509,dir=$pki,verify-peer=on"
check_refused 7 'a certificate of ours(,| and) got none' 'tls-cert' \
    client info "nbds://$address/mutual" "${options[@]}"
options+=(--tls-cert "$tls/us.pem" --tls-key "$tls/us.key")
check_export "nbds://$address/mutual" mutual 2097152

mkdir "$LAB_SCRATCH/keys"
printf 'alice:%s\n' "$(openssl rand -hex 32)" >"$LAB_SCRATCH/keys/keys.psk"
serve shared "tls-creds-psk,dir=$LAB_SCRATCH/keys"
options=(--tls-psk "$LAB_SCRATCH/keys/keys.psk")
check_export "nbds://$address/shared?tls-type=psk" shared 2097152

address=127.0.0.1:$(free_port)
serve_qemu_nbd plain "$address" -x plain "$LAB_SCRATCH/disk"
check_refused 7 'the server has no TLS' 'without protection' \
    client info "nbds://$address/plain" --tls-ca "$tls/ca.pem"
