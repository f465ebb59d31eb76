#!/bin/bash
# SPDX-License-Identifier: MIT
# list tells the truth about every device, check by its exit code.
# lab: needs nbdkit
. "$LAB/lib.sh"

serve_nbdkit store 127.0.0.1:10809 memory 16M

expect_exit 0 client list --json
check_eq 'the version of an empty list' "$(json 'd["version"]')" 1
check_eq 'devices in an empty list' "$(json 'd["devices"]')" '[]'
expect_exit 1 client check /dev/nbd0
check_eq 'what check prints' "$out$err" ''

expect_exit 0 client attach --read-only --id shelf nbd://127.0.0.1/one /dev/nbd3
expect_exit 0 client attach nbd://127.0.0.1/two /dev/nbd1
expect_exit 0 client check /dev/nbd1
expect_exit 0 client check 3
expect_exit 1 client check nbd2

expect_exit 0 client list --json
check_eq 'the devices' "$(json '[x["device"] for x in d["devices"]]')" "['/dev/nbd1', '/dev/nbd3']"
check_eq 'the sizes' "$(json '[x["size"] for x in d["devices"]]')" '[16777216, 16777216]'
check_eq 'read-only' "$(json '[x["read_only"] for x in d["devices"]]')" '[False, True]'
check_eq 'the states' "$(json '[x["state"] for x in d["devices"]]')" "['attached', 'attached']"
check_eq 'the uris' "$(json '[x["uri"] for x in d["devices"]]')" \
    "['nbd://127.0.0.1/two', 'nbd://127.0.0.1/one']"
check_eq 'the id given' "$(json 'd["devices"][1]["id"]')" shelf

expect_exit 0 client list
check_match 'the headings' "$(head -n 1 <<<"$out")" '^NAME +SIZE +RO +STATE +URI'
check_eq 'lines' "$(wc -l <<<"$out")" 3
expect_exit 0 client
check_eq 'lines without a verb' "$(wc -l <<<"$out")" 3
expect_exit 0 client list --raw --noheadings -o NAME
check_eq 'the names' "$out" $'/dev/nbd1\n/dev/nbd3'

expect_exit 0 client detach nbd1
expect_exit 0 client detach shelf
expect_exit 0 client list --json
check_eq 'devices after detaching' "$(json 'd["devices"]')" '[]'
