#!/bin/bash
# SPDX-License-Identifier: MIT
# What a URI said of users and key files outlives the watchdog: its successor shakes hands as well.
# lab: needs nbdkit openssl
. "$LAB/lib.sh"

truncate -s 64M store
printf 'alice:%s\nbob:%s\n' "$(openssl rand -hex 32)" "$(openssl rand -hex 32)" >keys.psk
serve_nbdkit store 127.0.0.1:10809 --tls=require --tls-psk="$PWD/keys.psk" file "$PWD/store"

echo 'a scheduler that is safe from signals'
modprobe -q mq-deadline || true
echo none >/sys/block/nbd0/queue/scheduler
expect_exit 0 client attach 'nbds://alice@127.0.0.1/store?tls-psk-file=keys.psk' /dev/nbd0 \
    --connections 1 --io-timeout 10
check_eq 'stderr' "$err" ''
check_match 'the scheduler' "$(cat /sys/block/nbd0/queue/scheduler)" '\[mq-deadline\]'
start_load /dev/nbd0 --threads 4 --size 16777216

for _ in 1 2 3; do
    kill -KILL "$(field nbd0 PID)"
    (cd / && expect_exit 0 client reattach /dev/nbd0)
    outage store 0
    await_field 15 nbd0 STATE attached
    sleep 1
done
check_eq 'sockets that send by the kernel' "$(tls_count TlsCurrTxSw)" 1

echo 'the same attachment again is the same'
expect_exit 0 client attach --idempotent 'nbds://alice@127.0.0.1/store?tls-psk-file=keys.psk' \
    --connections 1
check_eq 'the answer' "$out" /dev/nbd0
end_load
expect_exit 0 client detach /dev/nbd0

echo 'without netlink'
expect_exit 0 client attach 'nbds://alice@127.0.0.1/store?tls-psk-file=keys.psk' /dev/nbd0 \
    --connections 1 --no-netlink --reconnect-for 0
check_match 'the price of nobody there' "$err" 'TLS in the kernel without reconnecting'
random_file new 4
dd if=new of=/dev/nbd0 bs=1M oflag=direct status=none
check_eq 'sockets that send by the kernel' "$(tls_count TlsCurrTxSw)" 1
expect_exit 0 client detach /dev/nbd0
check_eq 'what was written' "$(head -c 4194304 store | sha256sum | cut -d ' ' -f 1)" "$(sum_of new)"
