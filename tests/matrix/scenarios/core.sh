#!/bin/bash
# SPDX-License-Identifier: MIT
# The core scenarios one after the other in one guest, each with a fresh driver; all, or those named.
# lab: needs nbdkit openssl sfdisk
# lab: time=1200
set -uo pipefail

kernel=$LAB_ROOT/tests/kernel own=${0%/*} base=$LAB_SCRATCH
scenarios=("$kernel"/{attach_netlink,attach_ioctl,partitions,detach_outage,reconnect_cut,tls_signals}.sh
    "$own"/{kills,frozen,watchdog,resize,loop,tls}.sh)
failed=()

chosen() { # FILE
    [ ${#wanted[@]} -eq 0 ] || [[ " ${wanted[*]} " == *" $(basename "$1" .sh) "* ]]
}

# Servers and watchdogs it has left running; all of them have its directory in their environment.
end_leftovers() {
    local file pid
    while read -r file; do
        pid=${file//[!0-9]/}
        [ "$pid" = $$ ] || kill -KILL "$pid" 2>/dev/null
    done < <(grep -lsz "^LAB_SCRATCH=$LAB_SCRATCH\$" /proc/[0-9]*/environ)
}

fresh_driver() {
    local tries
    timeout 20 "$NBD_CLIENT" detach --all --force
    for ((tries = 0; tries < 50; tries++)); do
        timeout 10 modprobe -rq nbd 2>/dev/null && timeout 10 modprobe nbd && return
        sleep 0.2
    done
    return 1
}

run_scenario() { # FILE
    local name time start=$SECONDS code=0 trouble
    name=$(basename "$1" .sh)
    time=$(sed -n 's/^# lab: time=//p' "$1")
    export LAB_SCRATCH=/run/$name
    mkdir "$LAB_SCRATCH" && cd "$LAB_SCRATCH" || exit
    dmesg --clear
    echo "== $name"
    timeout -k 5 "${time:-180}" bash "$1" </dev/null || code=$?
    trouble=$(dmesg | grep -E 'BUG:|WARNING:|Oops|protection fault|blocked for more than')
    if [ "$code" -ne 0 ] || [ -n "$trouble" ]; then
        failed+=("$name")
        echo "-- $name: code $code; the kernel's log:"
        dmesg | tail -n 60
        tail -vn 5 ./*.log
    else
        echo "-- $name: passed in $((SECONDS - start)) s"
    fi
    end_leftovers
    export LAB_SCRATCH=$base
    cd / && rm -rf "/run/$name"
}

wanted=("$@")
ran=0
for scenario in "${scenarios[@]}"; do
    chosen "$scenario" || continue
    run_scenario "$scenario"
    ran=$((ran + 1))
    fresh_driver || { echo 'the driver cannot be unloaded' && failed+=(driver) && break; }
done
echo "$ran core scenarios on $(uname -r) with $(nproc) processors, failed: ${failed[*]:-none}"
[ "$ran" -gt 0 ] && [ ${#failed[@]} -eq 0 ]
