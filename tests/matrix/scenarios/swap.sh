#!/bin/bash
# SPDX-License-Identifier: MIT
# More memory is used than there is, the rest is swapped to a server over TLS, which restarts three
# times meanwhile: nothing is lost, nothing is killed, nothing waits for ever.
# lab: needs nbdkit openssl
# lab: memory=480M
# lab: time=600
. "$LAB/lib.sh"

swapped() { # sets $out_mb and $in_mb; without forking
    local name value
    while read -r name value; do
        case $name in
            pswpout) out_mb=$((value / 256)) ;;
            pswpin) in_mb=$((value / 256)) ;;
        esac
    done </proc/vmstat
}
swaps_on() { swapped && [ "$out_mb" -ge "$1" ]; }
major_faults() { # of the watchdog
    local stat
    read -r stat <"/proc/$watchdog/stat"
    stat=${stat##*) }
    # shellcheck disable=SC2086 # a list of numbers
    set -- $stat
    echo "${10}"
}

expect_exit 0 client attach nbds://10.0.2.2/store /dev/nbd0 --essential --connections 1 \
    --tls-ca "$LAB_SCRATCH/tls/ca.pem" --tls-hostname localhost
check_eq 'OFFLOAD' "$(field nbd0 OFFLOAD)" ktls
watchdog=$(field nbd0 PID)
mkswap /dev/nbd0 >/dev/null
swapon /dev/nbd0
faults=$(major_faults)

start=$SECONDS
"$LAB_TOOLS/lab_memory" 420 >memory &
memory=$!
for outage in 1 2 3; do
    swapped
    wait_until 120 swaps_on $((out_mb + 60)) || fail "only $out_mb MB are swapped out"
    echo "outage $outage at $((SECONDS - start)) s: $out_mb MB out, $in_mb MB in"
    echo "$outage" >>outages-wanted
    wait_until 60 has_reconnected nbd0 "$outage" || fail 'the connection is not replaced'
done
code=0
wait "$memory" || code=$?
seconds=$((SECONDS - start))
cat memory
swapped
echo "swap seconds=$seconds out_mb=$out_mb in_mb=$in_mb"

check_eq 'the exit code of what uses the memory' "$code" 0
[ "$out_mb" -ge 200 ] || fail "only $out_mb MB were swapped out"
[ "$in_mb" -ge 200 ] || fail "only $in_mb MB were swapped in"
! dmesg | grep -E 'Out of memory|oom-kill|I/O error|blocked for more than' ||
    fail 'the kernel complains'
check_eq 'the watchdog' "$(field nbd0 PID)" "$watchdog"
check_eq 'pages the watchdog had to wait for' "$(major_faults)" "$faults"
check_eq 'sockets that send and receive by the kernel' \
    "$(tls_count TlsCurrTxSw) $(tls_count TlsCurrRxSw)" '1 1'
check_eq 'records that could not be decrypted' "$(tls_count TlsDecryptError)" 0
swapoff /dev/nbd0
expect_exit 0 client detach /dev/nbd0
