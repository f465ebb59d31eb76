#!/bin/bash
# SPDX-License-Identifier: MIT
# nbdkit is understood over TCP, IPv6 and unix sockets, newstyle and oldstyle.
# shellcheck source=tests/interop/lib.sh
. "${0%/*}/lib.sh"
need nbdkit python3

tcp=127.0.0.1:$(free_port)
serve_nbdkit tcp "$tcp" memory 1000000
check_export "nbd://$tcp/" '' 1000000
check_listed "nbd://$tcp/" '' ''

echo 'a host name is resolved'
expect_exit 0 client info --json "nbd://localhost:${tcp##*:}"
check_eq 'size' "$(json 'd["size"]')" 1000000

serve_nbdkit unix "$LAB_SCRATCH/kit.sock" -r memory 2M
unix="nbd+unix:///?socket=$LAB_SCRATCH/kit.sock"
check_export "$unix" '' 2097152
expect_exit 0 client info --json "$unix"
check_eq 'read_only' "$(json 'd["read_only"]')" True

if has_ipv6; then
    port=$(free_port)
    serve_nbdkit ipv6 "::1:$port" memory 3M
    check_export "nbd://[::1]:$port/" '' 3145728
fi

old=127.0.0.1:$(free_port)
serve_nbdkit oldstyle "$old" -o memory 4M
check_export "nbd://$old/" '' 4194304
check_refused 3 'oldstyle' 'export name' client info "nbd://$old/named"
check_refused 7 'too old' 'info' client exports "nbd://$old"

echo 'the minimum block size of a server is told'
if nbdkit --dump-plugin null >/dev/null 2>&1 && [ -e "$(nbdkit --dump-config |
    sed -n 's/^filterdir=//p')/nbdkit-blocksize-policy-filter.so" ]; then
    blocks=127.0.0.1:$(free_port)
    serve_nbdkit blocks "$blocks" --filter=blocksize-policy memory 1M \
        blocksize-minimum=4096 blocksize-preferred=64K blocksize-maximum=1M
    expect_exit 0 client info --json "nbd://$blocks/"
    check_eq 'block sizes' \
        "$(json '[d[k + "_block_size"] for k in ("minimum", "preferred", "maximum")]')" \
        '[4096, 65536, 1048576]'
fi
