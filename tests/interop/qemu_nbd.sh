#!/bin/bash
# SPDX-License-Identifier: MIT
# qemu-nbd is understood: names, descriptions and block sizes, over TCP, IPv6 and unix sockets.
# shellcheck source=tests/interop/lib.sh
. "${0%/*}/lib.sh"
need qemu-nbd python3

random_file "$LAB_SCRATCH/disk" 2
tcp=127.0.0.1:$(free_port)
serve_qemu_nbd tcp "$tcp" -x vm-storage -D 'the first disk' "$LAB_SCRATCH/disk"
check_export "nbd://$tcp/vm-storage" vm-storage 2097152
check_listed "nbd://$tcp/" vm-storage 'the first disk'
expect_exit 0 client info --json "nbd://$tcp/vm-storage"
check_eq 'description' "$(json 'd["description"]')" 'the first disk'
check_eq 'block sizes' \
    "$(json 'd["minimum_block_size"] <= d["preferred_block_size"] <= d["maximum_block_size"]')" True
check_refused 3 '"absent"' 'nbd-client exports' client info "nbd://$tcp/absent"
check_refused 3 'default export' 'nbd-client exports' client info "nbd://$tcp/"

serve_qemu_nbd unix "$LAB_SCRATCH/qemu.sock" -r -x 'name with spaces' "$LAB_SCRATCH/disk"
unix="?socket=$LAB_SCRATCH/qemu.sock"
check_export "nbd+unix:///name%20with%20spaces$unix" 'name with spaces' 2097152
check_listed "nbd+unix:///$unix" 'name with spaces' ''

if has_ipv6; then
    port=$(free_port)
    serve_qemu_nbd ipv6 "::1:$port" -x v6 "$LAB_SCRATCH/disk"
    check_export "nbd://[::1]:$port/v6" v6 2097152
fi
