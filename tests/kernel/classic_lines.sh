#!/bin/bash
# SPDX-License-Identifier: MIT
# The classic command line answers in the reference's words and exit codes, which scripts parse.
# lab: needs nbdkit
. "$LAB/lib.sh"

negotiation='^Negotiation: \.\.size = 64MB$'

serve_nbdkit store 127.0.0.1:10809 memory 64M

attach() { # ARG...; the canonical answer on stdout, exit 0
    expect_exit 0 client "$@"
    check_match 'line 1' "$(sed -n 1p <<<"$out")" "$negotiation"
    check_eq 'the last line' "$(tail -n 1 <<<"$out")" "Connected /dev/nbd0"
    attached nbd0 || fail "nothing is attached after: $*"
}

detach() {
    expect_exit 0 client -d /dev/nbd0
    check_eq 'what -d prints' "$out" ''
    detached nbd0 || fail '-d leaves the device attached'
}

echo 'connect, check, disconnect, check'
attach 127.0.0.1 10809 /dev/nbd0 -N vm-storage
check_eq 'the answer' "$(wc -l <<<"$out")" 2
expect_exit 0 client -c /dev/nbd0
printf '%s\n\n' "$(cat /sys/block/nbd0/pid)" | cmp - "$LAB_SCRATCH/out" ||
    fail '-c prints something else than the process and an empty line'
detach
expect_exit 1 client -c /dev/nbd0
check_eq 'what -c says of a free device' "$out$err" ''

echo '-d of a free device is a success'
expect_exit 0 client -d /dev/nbd0

echo 'every spelling of an option'
for name in '--name vm' '-name vm' '-N vm' '--nam vm' '-Nvm' '--name=vm' '-name=vm'; do
    # shellcheck disable=SC2086 # split on purpose
    attach 127.0.0.1 10809 /dev/nbd0 $name
    detach
done

echo 'options before, between and after the words'
attach -N vm 127.0.0.1 -p 10809 /dev/nbd0
detach
attach -systemd-mark -N vm -t30 127.0.0.1 10809 -b 4096 /dev/nbd0 -timeout 30
check_eq 'the block size' "$(blockdev --getss /dev/nbd0)" 4096
detach
attach 127.0.0.1 10809 /dev/nbd0 -N vm -swap -persist
detach

echo 'a unix socket'
serve_nbdkit local /run/store.sock memory 64M
attach -unix /run/store.sock /dev/nbd0 -timeout 60 -name vm
detach

echo 'version and help'
expect_exit 0 client -V
check_match 'the version' "$out" '^This is nbd-client, from nbd '
expect_exit 0 client -h
check_match 'the help' "$out$err" 'nbd-client'

echo 'refusals exit with 1'
expect_exit 1 client 127.0.0.1 10810 /dev/nbd0 -N vm
detached nbd0 || fail 'a refused connection leaves something attached'
expect_exit 1 client -c /dev/nbd99
