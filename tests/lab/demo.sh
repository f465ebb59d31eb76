#!/bin/bash
# SPDX-License-Identifier: MIT
# The story tests/demo tells, in a guest or on this machine: a remote disk is used like a local one.
# lab: needs nbdkit mkfs.ext4
. "$LAB/lib.sh"
PATH=$(dirname "$NBD_CLIENT"):$PATH
point=/run/nbd-demo
device=''

# Shows a command as one would type it, and what it answers.
show() { # COMMAND-LINE
    printf '\n$ %s\n' "$1"
    eval "$1"
}

# shellcheck disable=SC2317 # called by the trap
leave() {
    ! mountpoint -q "$point" || umount "$point"
    [ -z "$device" ] || nbd-client -d "$device" >/dev/null || true
    [ -z "${server_pid[store]:-}" ] || end_server store
    [ ! -d "$point" ] || rmdir "$point"
}
trap leave EXIT

free_device() {
    local node
    for node in /sys/block/nbd*; do
        [ -e "$node/pid" ] || { echo "/dev/${node##*/}" && return; }
    done
    fail 'every nbd device is taken'
}

attach() { show "nbd-client 127.0.0.1 10809 $device -N vm-storage${1:+ $1}"; }
detach() { show "nbd-client -d $device"; }

open_the_store() {
    echo "Kernel $(uname -r) attaches a disk from a server: nbdkit, serving a file as 'vm-storage'."
    mkdir -p "$LAB_SCRATCH/exports" "$point"
    truncate -s 128M "$LAB_SCRATCH/exports/vm-storage"
    serve_nbdkit store 127.0.0.1:10809 file dir="$LAB_SCRATCH/exports"
    device=$(free_device)
}

fill_the_disk() {
    attach
    show "nbd-client -c $device"
    show "lsblk $device"
    show "mkfs.ext4 -q $device"
    show "mount $device $point"
    show "head -c 32M /dev/urandom >$point/data"
    show "sha256sum $point/data"
    before=$(sum_of "$point/data")
    show "umount $point"
    detach
}

look_again() {
    show "nbd-client -c $device || echo 'nothing is attached'"
    attach
    show "mount $device $point"
    show "sha256sum $point/data"
    after=$(sum_of "$point/data")
    show "umount $point"
    detach
}

copy_has_begun() { [ -e "$point/copy" ] && [ "$(stat -c %s "$point/copy")" -gt 1048576 ]; }
state_is() { [ "$(nbd-client list --raw -n -o STATE "$device")" = "$1" ]; }

kill_the_server_under_a_copy() {
    attach -persist
    show "mount $device $point"
    printf '\n$ %s\n' "dd if=$point/data of=$point/copy bs=64k oflag=direct &"
    dd if="$point/data" of="$point/copy" bs=64k oflag=direct status=none &
    local copy=$!
    wait_until 20 copy_has_begun || fail 'the copy does not begin'
    printf '\n$ %s\n' 'killall -KILL nbdkit'
    kill_server store
    kill -0 "$copy" 2>/dev/null || fail 'the copy was over before the server was killed'
    wait_until 10 state_is reconnecting || fail 'nobody notices that the server is gone'
    show "nbd-client list $device"
    sleep 3
    printf '\n(three seconds without a server)\n$ nbdkit ... &\n'
    restart_server store
    wait "$copy" || fail 'the copy has failed'
    wait_until 10 state_is attached || fail 'the device does not come back'
    show "nbd-client list $device -o NAME,STATE,RECONNECTS,SERVER"
    show "sha256sum $point/copy"
    copied=$(sum_of "$point/copy")
    show "umount $point"
    detach
}

open_the_store
fill_the_disk
look_again
printf '\nbefore: %s\nafter:  %s\n' "$before" "$after"
[ "$before" = "$after" ] || fail 'the data is not the same'
echo 'The data is the same: it went over the network to the server and came back.'

kill_the_server_under_a_copy
printf '\nbefore: %s\ncopy:   %s\n' "$before" "$copied"
[ "$before" = "$copied" ] || fail 'the copy is not the same'
echo 'The server was killed and restarted under the copy: no error, and not a byte is wrong.'
