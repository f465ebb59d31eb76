#!/bin/bash
# SPDX-License-Identifier: MIT
# Hostile servers get an answer in time, from little memory, and never reach the terminal.
# shellcheck source=tests/interop/lib.sh
. "${0%/*}/lib.sh"
need python3

most_kilobytes=32768
most_milliseconds=6000

# Runs COMMAND and notes the peak of its memory; the measuring interpreter's own counts along.
measured() { # COMMAND...
    timeout 30 python3 -c '
import resource, subprocess, sys
code = subprocess.run(sys.argv[2:]).returncode
with open(sys.argv[1], "w") as file:
    print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=file)
sys.exit(code if code >= 0 else 255)' "$LAB_SCRATCH/peak" "$@"
}

is_clean() { # FILE: UTF-8 without control characters but line ends
    python3 -c '
import sys, unicodedata
text = open(sys.argv[1], "rb").read().decode("utf-8")
sys.exit(any(unicodedata.category(c) == "Cc" for c in text.replace("\n", "")))' "$1"
}

check_answer() { # BEHAVIOUR CODE PATTERN VERB ARG...
    local behaviour=$1 expected=$2 pattern=$3 begin took peak
    shift 3
    echo "$behaviour: $1"
    begin=$(milliseconds)
    expect_exit "$expected" measured "$NBD_CLIENT" "$@" --connect-timeout 2 "nbd://127.0.0.1:$port/"
    took=$(($(milliseconds) - begin))
    peak=$(<"$LAB_SCRATCH/peak")
    check_match 'the answer' "$out$err" "$pattern"
    [ "$took" -lt "$most_milliseconds" ] || fail "it took $took ms"
    [ "$peak" -le "$most_kilobytes" ] || fail "it took $peak KiB"
    is_clean "$LAB_SCRATCH/out" || fail 'control characters on stdout'
    is_clean "$LAB_SCRATCH/err" || fail 'control characters on stderr'
}

while read -r behaviour asked listed pattern; do
    port=$(free_port)
    start_server "$behaviour" "127.0.0.1:$port" \
        python3 "${0%/*}/hostile_server.py" "$port" "$behaviour"
    check_answer "$behaviour" "$asked" "$pattern" info
    check_answer "$behaviour" "$asked" "$pattern" attach --dry-run
    check_answer "$behaviour" "$listed" "$pattern" exports
    kill_server "$behaviour"
done <<'EOT'
mute 6 6 timed out
drip 6 6 timed out
hang-up 6 6 before any greeting
ssh 7 7 not an NBD server, it sent "SSH-2.0-"
escape 7 7 not an NBD server
mute-after-greeting 6 6 timed out
hang-up-after-greeting 7 7 closed
endless-list 7 7 unexpected NBD_REP_SERVER|does not end
endless-long-list 7 7 unexpected NBD_REP_SERVER|does not end
endless-info 7 7 unexpected NBD_REP_INFO|does not end
endless-error 7 7 4294967295 bytes
long-error 3 3 no such export
evil-error 7 7 policy
evil-name 0 0
overlong-name 7 7 shorter than|unexpected
no-size 7 0
huge 7 7 larger than the kernel|unexpected
wrong-option 7 7 instead of
wrong-magic 7 7 magic
EOT
