#!/bin/bash
# SPDX-License-Identifier: MIT
# The server that the guest of swap.sh swaps to, outside of its memory. Each line the guest adds to
# `outages-wanted` is one.
. "$LAB/lib.sh"

ip link set lo up
make_pki
truncate -s 1G "$LAB_SCRATCH/store"
serve_tls store 127.0.0.1:10809 file "$LAB_SCRATCH/store"
: >"$LAB_SCRATCH/outages-wanted"

"$@" &
guest=$!
done=0
while kill -0 "$guest" 2>/dev/null; do
    if lines_after "$LAB_SCRATCH/outages-wanted" "$done"; then
        outage store 1
        done=$((done + 1))
    fi
    pause 0.1
done
wait "$guest"
