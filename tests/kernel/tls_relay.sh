#!/bin/bash
# SPDX-License-Identifier: MIT
# Where the kernel cannot do TLS a process stands in: data, restarts, its death and ours, no trace.
# lab: needs nbdkit openssl
# lab: time=480
. "$LAB/lib.sh"

make_pki
ca=$PWD/tls/ca.pem
random_file store 16
serve_tls tcp 127.0.0.1:10809 file "$PWD/store"
serve_tls local /run/store.sock file "$PWD/store"
by_tcp=nbds://127.0.0.1/store
by_path='nbds+unix:///store?socket=/run/store.sock'

relay_count() { relays | wc -l; }
relay_count_is() { [ "$(relay_count)" -eq "$1" ]; }
writes_done() { awk '{ print $5 }' /sys/block/nbd0/stat; }
more_written() { [ "$(writes_done)" -gt $((done_before + 100)) ]; }
only_relays() { [ "$(client_processes)" -eq "$(relay_count)" ]; }
no_relays() { relay_count_is 0; }

check_device() { # CONNECTIONS; nbd0 is the store, through relays
    check_eq 'OFFLOAD' "$(field nbd0 OFFLOAD)" relay
    check_eq 'relays' "$(relay_count)" "$1"
    [ ! -e /proc/net/tls_stat ] || check_eq 'protected sockets' "$(tls_count TlsCurrTxSw)" 0
    check_eq 'what is read' "$(device_sum /dev/nbd0)" "$(sum_of store)"
    random_file new 16
    dd if=new of=/dev/nbd0 bs=1M oflag=direct status=none
    check_eq 'what is read back' "$(device_sum /dev/nbd0)" "$(sum_of new)"
}

check_detached() {
    expect_exit 0 client detach /dev/nbd0
    detached nbd0 || fail 'it is still attached'
    wait_until 5 no_relays || fail 'a relay outlives its device'
    wait_until 5 no_clients_left || fail 'a process outlives its device'
    check_eq 'what was written' "$(sum_of store)" "$(sum_of new)"
}

echo 'asked for'
expect_exit 0 client attach "$by_tcp" /dev/nbd0 --tls-ca "$ca" --tls-offload never
check_eq 'stderr' "$err" ''
check_device "$(field nbd0 CONNS)"
for pid in $(relays); do
    check_eq 'capabilities' "$(grep -E 'Cap(Eff|Bnd)' "/proc/$pid/status" | cut -f 2 | sort -u)" \
        0000000000000000
    check_eq 'descriptors' "$(ls "/proc/$pid/fd" | wc -l)" 5
done
check_detached

echo 'over a unix socket, where there is nothing else'
expect_exit 0 client attach "$by_path" /dev/nbd0 --tls-ca "$ca" --tls-hostname localhost
check_device "$(field nbd0 CONNS)"
check_detached
expect_exit 8 client attach "$by_path" --tls-ca "$ca" --tls-hostname localhost --tls-offload require
check_match 'the reason' "$err" 'cannot let the kernel protect .*only over TCP, not over unix sock'
expect_exit 8 client attach "$by_path" --tls-ca "$ca" --tls-hostname localhost --essential
check_match 'the reason' "$err" 'unix sockets, and a process in between can wait for memory'
check_match 'the hint' "$err" $'\nhint: .*--tls-offload=never insists'
no_clients_left || fail 'a refusal leaves a process'

echo 'essential all the same'
expect_exit 0 client attach "$by_tcp" /dev/nbd0 --tls-ca "$ca" --tls-offload never --essential \
    --connections 1
check_match 'stderr' "$err" 'with swap on the device that stops the machine'
pid=$(relays)
check_eq 'OOM score' "$(<"/proc/$pid/oom_score_adj")" -1000
awk '$1 == "VmLck:" && $2 > 1000 { locked = 1 } END { exit !locked }' "/proc/$pid/status" ||
    fail 'its memory is not locked'
check_device 1
check_detached

echo 'servers that restart, a relay that dies, a watchdog that dies: under load'
for uri in "$by_tcp" "$by_path"; do
    name=tcp
    [[ $uri != *unix* ]] || name=local
    rm -f outages
    expect_exit 0 client attach "$uri" /dev/nbd0 --tls-ca "$ca" --tls-hostname localhost \
        --tls-offload never --connections 1
    start_load /dev/nbd0 --threads 8 --size 16777216
    for seconds in 1 0 1 0 1; do
        outage "$name" "$seconds"
        sleep 3
    done
    measured=$(figures)
    for _ in 1 2 3; do
        before=$(field nbd0 RECONNECTS)
        kill -KILL "$(relays)"
        await_field 10 nbd0 RECONNECTS $((before + 1))
        wait_until 10 relay_count_is 1
        sleep "0.$((RANDOM % 9 + 1))"
    done
    # What ends services and sessions must not end the device.
    kill -TERM "$(relays)"
    # Long enough for what was under way to come back.
    sleep 5
    check_eq 'reconnects' "$(field nbd0 RECONNECTS)" $((before + 1))
    kill -KILL "$(field nbd0 PID)"
    done_before=$(writes_done)
    wait_until 20 more_written || fail 'the device does not outlive its watchdog'
    check_eq 'relays' "$(relay_count)" 1
    expect_exit 0 client reattach /dev/nbd0
    sleep 1
    outage "$name" 0
    await_field 20 nbd0 STATE attached
    sleep 5
    end_load
    echo "recovery relay $name $measured"
    check_eq 'OFFLOAD' "$(field nbd0 OFFLOAD)" relay
    expect_exit 0 client detach /dev/nbd0
    wait_until 5 no_relays || fail 'a relay outlives its device'
done

echo 'a watchdog that leaves'
expect_exit 0 client attach "$by_tcp" /dev/nbd0 --tls-ca "$ca" --tls-offload never --connections 1
kill -TERM "$(field nbd0 PID)"
wait_until 5 relay_count_is 1
wait_until 5 only_relays || fail 'the watchdog stays'
random_file new 16
dd if=new of=/dev/nbd0 bs=1M oflag=direct status=none
check_detached

echo 'a kernel without TLS'
rmmod tls
echo 'install tls /bin/false' >/etc/modprobe.d/no-tls.conf
expect_exit 0 client attach "$by_tcp" /dev/nbd0 --tls-ca "$ca"
check_match 'stderr' "$err" 'goes through a process of ours, the kernel cannot do it: it has no TLS'
[ ! -e /proc/net/tls_stat ] || fail 'the kernel has TLS all the same'
check_device "$(field nbd0 CONNS)"
check_detached
expect_exit 8 client attach "$by_tcp" --tls-ca "$ca" --tls-offload require
check_match 'the hint' "$err" $'\nhint: modprobe tls'
expect_exit 8 client attach "$by_tcp" --tls-ca "$ca" --essential
check_match 'the reason' "$err" 'no TLS for any of the ciphers, and a process in between can wait'
expect_exit 1 client -swap -x -A "$ca" 127.0.0.1 10809 /dev/nbd0 -N store
check_match 'the reason' "$err" 'cannot let the kernel protect .*, and a process in between can wait'
detached nbd0 || fail 'a refusal leaves a device'
