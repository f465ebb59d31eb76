#!/bin/bash
# SPDX-License-Identifier: MIT
# A signal to a writer that is in the midst of sending does not end its TLS connection, which it does
# on kernels before 6.1.183 and 6.12.104 where no scheduler makes others send.
# lab: needs nbdkit openssl
. "$LAB/lib.sh"

make_pki
truncate -s 4M store
serve_tls store 127.0.0.1:10809 file "$PWD/store"

# So little that every writer soon waits for the server.
echo '4096 16384 65536' | tee /proc/sys/net/ipv4/tcp_rmem >/proc/sys/net/ipv4/tcp_wmem
modprobe -q mq-deadline || true
echo none >/sys/block/nbd0/queue/scheduler
expect_exit 0 client attach nbds://127.0.0.1/store /dev/nbd0 --tls-ca tls/ca.pem --connections 1 \
    --reconnect-for forever --io-timeout 30
echo "the scheduler is now: $(</sys/block/nbd0/queue/scheduler)"
start_load /dev/nbd0 --threads 4 --size 4194304 --block 262144
for ((n = 0; n < 5; n++)); do
    freeze_server store
    pause 0.5
    kill -STOP "$load"
    pause 0.3 # until it has reached the thread that sends
    kill -CONT "$load"
    thaw_server store
    pause 0.5
done
end_load
check_eq 'connections that were replaced' "$(field nbd0 RECONNECTS)" 0
expect_exit 0 client detach /dev/nbd0
