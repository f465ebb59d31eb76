#!/bin/bash
# SPDX-License-Identifier: MIT
# Servers that cannot be reached are told apart, and `--connect-for` waits for one that starts late.
# shellcheck source=tests/interop/lib.sh
. "${0%/*}/lib.sh"
need nbdkit

tcp=127.0.0.1:$(free_port)
check_refused 6 "$tcp: connection refused" '10809' client info "nbd://$tcp/"
check_refused 6 "$tcp: connection refused" '10809' client exports "nbd://$tcp/"
check_refused 6 'no such file' 'path' client info "nbd+unix:///?socket=$LAB_SCRATCH/none"
check_refused 3 'no such .*service' 'services' client info 'nbd://127.0.0.1:no-such-service/'
check_refused 2 'not an NBD URI' 'did you mean "nbd://127.0.0.1:1/"' client info 127.0.0.1:1

echo 'a server that starts late is waited for'
client attach --dry-run --connect-for 25 "nbd://$tcp/" >"$LAB_SCRATCH/plan" &
waiting=$!
sleep 1
kill -0 "$waiting" || fail 'the client has not waited'
serve_nbdkit late "$tcp" memory 1M
wait "$waiting" || fail "the client exits with $?"
check_match 'the plan' "$(<"$LAB_SCRATCH/plan")" 'size_bytes: 1048576'

echo 'patience ends'
begin=$(milliseconds)
end_server late
check_refused 6 'refused' '10809' client attach --dry-run --connect-for 2 "nbd://$tcp/"
took=$(($(milliseconds) - begin))
if [ "$took" -lt 1900 ] || [ "$took" -gt 15000 ]; then fail "it took $took ms"; fi
