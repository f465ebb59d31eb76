#!/bin/bash
# SPDX-License-Identifier: MIT
# Proves that layering.sh sees each sort of violation: one copy of the tree, one crime at a time.
set -euo pipefail

root=$(cd "$(dirname "$0")/../.." && pwd -P)
work=$(mktemp -d)
trap 'rm -r "$work"' EXIT
caught=0

fresh_tree() {
    rm -rf "$work/tree"
    mkdir -p "$work/tree/tests"
    cp -r "$root/client" "$root/netlink" "$work/tree/"
    cp -r "$root/tests/unit" "$work/tree/tests/"
}

# expect COMPLAINT CRIME...: layering.sh fails and says so, and did not say so before the crime.
expect() {
    local complaint=$1 output
    shift
    fresh_tree
    output=$("$root/tests/source/layering.sh" "$work/tree") || true
    [[ $output != *"$complaint"* ]] || { echo "said without a crime: $complaint" && exit 1; }
    (cd "$work/tree" && "$@")
    if output=$("$root/tests/source/layering.sh" "$work/tree"); then
        echo "passes in spite of: $*" && exit 1
    fi
    [[ $output == *"$complaint"* ]] || { echo "not said: $complaint"$'\n'"$output" && exit 1; }
    caught=$((caught + 1))
}

add() { echo "$2" >>"$1"; } # FILE LINE

expect 'client/base/fd.h must not include "client/runtime.h"' \
    add client/base/fd.h '#include "client/runtime.h"'
expect 'client/base/text.cpp must not include "netlink/sysfs.h"' \
    add client/base/text.cpp '#include "netlink/sysfs.h"'
expect 'client/protocol/uri.cpp must not include "client/request.h"' \
    add client/protocol/uri.cpp '#include "client/request.h"'
expect 'client/protocol/uri.cpp must not include "netlink/kernel.h"' \
    add client/protocol/uri.cpp '#include "netlink/kernel.h"'
expect 'netlink/sysfs.cpp must not include "client/protocol/wire.h"' \
    add netlink/sysfs.cpp '#include "client/protocol/wire.h"'
expect 'client/devices.cpp must not include "netlink/channel.h"' \
    add client/devices.cpp '  #  include "netlink/channel.h"'
expect 'client/devices.cpp must not include "tests/unit/temporary_directory.h"' \
    add client/devices.cpp '#include "tests/unit/temporary_directory.h"'
expect 'client/devices.cpp includes "client/nowhere.h", which is not there' \
    add client/devices.cpp '#include "client/nowhere.h"'
expect 'client/devices.cpp must not use <netlink/netlink.h>' \
    add client/devices.cpp '#include <netlink/netlink.h>'
expect 'client/devices.h must not use <nlohmann/json.hpp>' \
    add client/devices.h '#include <nlohmann/json.hpp>'
expect 'client/classic.cpp must not use <CLI/CLI.hpp>' \
    add client/classic.cpp '#include <CLI/CLI.hpp>'
expect 'client/protocol/wire.h must not use <openssl/ssl.h>' \
    add client/protocol/wire.h '#include <openssl/ssl.h>'
expect 'client/protocol/tls_context.h must not use <openssl/ssl.h>' \
    add client/protocol/tls_context.h '#include <openssl/ssl.h>'
expect 'circle of includes' add client/base/text.h '#include "client/base/log.h"'
expect 'client/orphan.cpp has no tests' add client/orphan.cpp 'int orphan;'
expect 'client/devices.cpp has no tests' cp /dev/null tests/unit/devices_test.cpp
expect 'client/main.cpp has a unit test, but is excused' cp tests/unit/text_test.cpp tests/unit/main_test.cpp
expect 'client/devices.cpp:1:// only for tests' sed -i '1i // only for tests' client/devices.cpp
expect 'notes.txt does not belong to the top level' add notes.txt 'remember'

echo "layering.sh saw $caught violations"
