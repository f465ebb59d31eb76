#!/bin/bash
# SPDX-License-Identifier: MIT
# As many connections as asked for, if the server allows several; else one.
# lab: needs nbdkit
. "$LAB/lib.sh"

serve_nbdkit many 127.0.0.1:10809 memory 64M
serve_nbdkit single 127.0.0.1:10810 --filter=multi-conn memory 64M multi-conn-mode=disable

connect() { # PORT WANTED ARG...
    local port=$1 wanted=$2
    shift 2
    expect_exit 0 client attach "nbd://127.0.0.1:$port/" /dev/nbd0 "$@"
    warned=$err
    check_eq "connections to $port with '$*'" "$(connections_to "$port")" "$wanted"
    expect_exit 0 "$LAB_TOOLS/lab_verify" /dev/nbd0 --seconds 1 --threads 4
    expect_exit 0 client detach /dev/nbd0
}

connect 10809 1 --connections 1
connect 10809 4 --connections 4
connect 10809 1 # one processor: more would carry nothing
connect 10810 1
connect 10810 1 --connections 1

echo 'several connections to a server that forbids them'
connect 10810 1 --connections 4
check_match 'the warning' "$warned" 'CAN_MULTI_CONN'

echo 'classic'
expect_exit 0 client 127.0.0.1 10809 /dev/nbd0 -C 4 -N vm
check_eq 'connections with -C 4' "$(connections_to 10809)" 4
expect_exit 0 client -d /dev/nbd0
