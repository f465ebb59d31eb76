#!/bin/bash
# SPDX-License-Identifier: MIT
# TERM leaves the device to the kernel, INT takes it away, HUP looks at once, a detach ends the watch.
# lab: needs nbdkit unshare mkfs.ext4
. "$LAB/lib.sh"

truncate -s 32M store
serve_nbdkit store 127.0.0.1:10809 file "$PWD/store"
uri=nbd://127.0.0.1/

# In the foreground; $! is the watchdog itself.
watch_in_foreground() { # VERB...
    "$NBD_CLIENT" "$@" --foreground --log-target stderr >foreground 2>&1 &
    watchdog=$!
    wait_until 10 field_is nbd0 PID "$watchdog" || { cat foreground && fail 'no watchdog'; }
}
ends_with() { # CODE
    local code=0
    wait_until 10 gone "$watchdog" || { cat foreground && fail 'the watchdog does not end'; }
    wait "$watchdog" || code=$?
    [ "$code" -eq "$1" ] || { cat foreground && fail "the watchdog exits with $code, not $1"; }
}
gone() { ! kill -0 "$1" 2>/dev/null; }
# A detach by somebody who knows nothing of the watchdog: its status file is out of sight.
detach_blindly() {
    # shellcheck disable=SC2016 # for the inner shell
    unshare -m sh -c 'mount -t tmpfs tmpfs /run && "$0" detach --force /dev/nbd0' "$NBD_CLIENT"
}

echo 'TERM'
watch_in_foreground attach "$uri" /dev/nbd0
start_load /dev/nbd0 --threads 4 --size 8388608
kill -TERM "$watchdog"
ends_with 0
attached nbd0 || fail 'TERM takes the device away'
check_eq 'the watchdog in the list' "$(field nbd0 PID)" ''
sleep 1
watch_in_foreground reattach /dev/nbd0

echo 'HUP'
kill -HUP "$watchdog"
outage store 1
kill -HUP "$watchdog"
await_field 15 nbd0 STATE attached

echo 'INT while the device is open, and when it is not'
end_load
mkdir -p /run/point
mkfs.ext4 -q /dev/nbd0
mount /dev/nbd0 /run/point
kill -INT "$watchdog"
sleep 1
attached nbd0 || fail 'INT takes a mounted device away'
gone "$watchdog" && fail 'INT ends the watchdog of a mounted device'
umount /run/point
kill -INT "$watchdog"
ends_with 0
detached nbd0 || fail 'INT leaves the device'

echo 'a detach by somebody else'
watch_in_foreground attach "$uri" /dev/nbd0
detach_blindly
ends_with 0
watch_in_foreground attach --connections 4 "$uri" /dev/nbd0
kill_server store
wait_until 10 field_is nbd0 LIVE 0 || fail 'the outage is not seen'
detach_blindly
ends_with 0
detached nbd0 || fail 'the device comes back'
