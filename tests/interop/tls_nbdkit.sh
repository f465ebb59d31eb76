#!/bin/bash
# SPDX-License-Identifier: MIT
# nbdkit's TLS is understood: required and optional, certificates of both sides, shared keys.
# shellcheck source=tests/interop/lib.sh
. "${0%/*}/lib.sh"
need nbdkit openssl python3

make_authority ca
make_certificate ca server DNS:localhost,IP:127.0.0.1,IP:::1
make_certificate ca us DNS:us
pki=$LAB_SCRATCH/pki tls=$LAB_SCRATCH/tls
lay_out_certificates "$pki" ca server us
options=(--tls-ca "$tls/ca.pem")

required=127.0.0.1:$(free_port)
serve_nbdkit required "$required" --tls=require --tls-certificates="$pki" memory 1000000
check_export "nbds://$required/" '' 1000000
check_listed "nbds://$required/" '' ''
check_export "nbds://localhost:${required##*:}/" '' 1000000
for command in info exports 'attach --dry-run'; do
    # shellcheck disable=SC2086 # two words on purpose
    check_refused 7 'requires TLS' 'nbds://' client $command "nbd://$required/"
    # shellcheck disable=SC2086
    check_refused 7 'not among the system.s authorities' 'tls-ca' client $command "nbds://$required/"
done

echo 'the directory of certificates that libnbd knows'
expect_exit 0 client info "nbds://$required/?tls-certificates=$pki"

optional=127.0.0.1:$(free_port)
serve_nbdkit optional "$optional" --tls=on --tls-certificates="$pki" memory 2M
check_export "nbds://$optional/" '' 2097152
(options=() && check_export "nbd://$optional/" '' 2097152)

echo 'a server that wants to know who we are'
mutual=127.0.0.1:$(free_port)
serve_nbdkit mutual "$mutual" --tls=require --tls-certificates="$pki" --tls-verify-peer memory 3M
check_refused 7 'a certificate of ours(,| and) got none' 'tls-cert' \
    client info "nbds://$mutual/" "${options[@]}"
options+=(--tls-cert "$tls/us.pem" --tls-key "$tls/us.key")
check_export "nbds://$mutual/" '' 3145728

unix="nbds+unix:///?socket=$LAB_SCRATCH/kit.sock"
serve_nbdkit unix "$LAB_SCRATCH/kit.sock" --tls=require --tls-certificates="$pki" memory 2M
check_refused 7 'no host name to check' 'tls-hostname' client info "$unix" "${options[@]}"
check_export "$unix&tls-hostname=localhost" '' 2097152

if has_ipv6; then
    port=$(free_port)
    serve_nbdkit ipv6 "::1:$port" --tls=require --tls-certificates="$pki" memory 3M
    check_export "nbds://[::1]:$port/" '' 3145728
fi

plain=127.0.0.1:$(free_port)
serve_nbdkit plain "$plain" --tls=off memory 1M
check_refused 7 'the server has no TLS' 'without protection' client info "nbds://$plain/" "${options[@]}"

echo 'shared keys'
key=$(openssl rand -hex 32)
printf 'alice:%s\nbob:%s\n' "$key" "$(openssl rand -hex 32)" >"$LAB_SCRATCH/server.psk"
printf 'alice:%s\n' "$key" >"$LAB_SCRATCH/alice.psk"
printf 'alice:%s\n' "${key//[0-9]/a}" >"$LAB_SCRATCH/wrong.psk"
shared=127.0.0.1:$(free_port)
serve_nbdkit shared "$shared" --tls=require --tls-psk="$LAB_SCRATCH/server.psk" memory 4M
options=(--tls-psk "$LAB_SCRATCH/alice.psk")
check_export "nbds://$shared/?tls-type=psk" '' 4194304
options=()
expect_exit 0 client info "nbds://alice@$shared/?tls-psk-file=$LAB_SCRATCH/server.psk"
expect_exit 0 client info "nbds://$shared/" --tls-psk "$LAB_SCRATCH/server.psk" --tls-username bob
check_refused 7 'the keys of 2 users' 'tls-username' \
    client info "nbds://$shared/" --tls-psk "$LAB_SCRATCH/server.psk"
check_refused 7 "shared key.s name" 'the same in the server.s file' \
    client info "nbds://$shared/" --tls-psk "$LAB_SCRATCH/wrong.psk"
[[ $out$err != *"$(tail -c 9 "$LAB_SCRATCH/wrong.psk")"* ]] || fail 'a key on the screen'
