#!/bin/bash
# SPDX-License-Identifier: MIT
# The reference nbd-server is understood: its named exports, its list, its refusals.
# shellcheck source=tests/interop/lib.sh
. "${0%/*}/lib.sh"
need nbd-server python3

random_file "$LAB_SCRATCH/disk" 3
tcp=127.0.0.1:$(free_port)
serve_nbd_server tcp "$tcp" "vm-storage=$LAB_SCRATCH/disk"
check_export "nbd://$tcp/vm-storage" vm-storage 3145728
check_listed "nbd://$tcp/" vm-storage ''
check_refused 3 '"absent"' 'nbd-client exports' client info "nbd://$tcp/absent"
check_refused 3 '"absent"' 'nbd-client exports' client attach --dry-run "nbd://$tcp/absent"

echo 'a list that the server does not allow'
closed=127.0.0.1:$(free_port)
allowlist=false
serve_nbd_server closed "$closed" "vm-storage=$LAB_SCRATCH/disk"
check_refused 7 'policy' 'allowlist = true' client exports "nbd://$closed/"
check_export "nbd://$closed/vm-storage" vm-storage 3145728
