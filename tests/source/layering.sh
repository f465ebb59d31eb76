#!/bin/bash
# SPDX-License-Identifier: MIT
# Proves which part of the program may know which: folders, libraries, circles, tests, top level.
#
#   tests/source/layering.sh [TREE]
set -euo pipefail
export LC_ALL=C

cd "${1:-$(dirname "$0")/../..}"

top_level='CMakeLists.txt LICENSE README.md client initramfs man netlink systemd tests udev'

# Product files without a unit test of their stem, and why.
declare -A untested=(
    [client/main.cpp]='only hands argv to the use cases; every kernel test runs it'
    [client/verbs.cpp]='hands commands on and prints; every kernel test runs it'
    [client/attach_verb.cpp]='orders processes, signals and devices; every kernel test runs it'
    [netlink/open.cpp]='its answer is what the machine has; every kernel test runs it'
)

faults=0
fault() {
    printf 'layering: %s\n' "$*"
    faults=$((faults + 1))
}

# Everything but folders and hidden files, once.
mapfile -t product < <(find client netlink -name '*.cpp' -o -name '*.h' | sort)
mapfile -t includes < <(grep -Hno '^ *# *include *["<][^">]*[">]' "${product[@]}" |
    sed 's/:[0-9]*: *# *include */ /')
if ((${#product[@]} < 40 || ${#includes[@]} < 200)); then
    fault "only ${#product[@]} files and ${#includes[@]} includes found: wrong tree?"
fi

# May FILE include the project's HEADER?
may_include() {
    case "$1:$2" in
        client/base/*:client/base/*) ;;
        client/base/*) return 1 ;;
        client/protocol/*:client/base/* | client/protocol/*:client/protocol/*) ;;
        client/protocol/*) return 1 ;;
        netlink/*:client/base/* | netlink/*:netlink/*) ;;
        netlink/*) return 1 ;;
        *:client/*) ;;
        *:netlink/kernel.h | *:netlink/sysfs.h | *:netlink/open.h) ;;
        *) return 1 ;;
    esac
}

# May FILE include the libraries' HEADER?
may_use() {
    case "$2" in
        openssl/*)
            case "$1" in client/protocol/tls.* | client/protocol/tls_*.cpp | client/protocol/ktls.* | \
                client/protocol/relay.*) ;; *) return 1 ;; esac ;;
        netlink/*) [[ $1 == netlink/* ]] ;;
        CLI/*) [[ $1 == client/options.cpp ]] ;;
        nlohmann/*) [[ $1 == client/render.cpp || $1 == client/runtime.cpp ]] ;;
        gtest/* | gmock/*) return 1 ;;
    esac
}

for include in "${includes[@]}"; do
    file=${include%% *}
    header=${include#* }
    name=${header:1:-1}
    if [[ $header == '<'* ]]; then
        may_use "$file" "$name" || fault "$file must not use <$name>"
    elif ! may_include "$file" "$name"; then
        fault "$file must not include \"$name\""
    elif [ ! -f "$name" ]; then
        fault "$file includes \"$name\", which is not there"
    fi
done

# A header and its source are one part: no circle of parts, so none of headers either.
circle=$(printf '%s\n' "${includes[@]}" | sed -n 's/^\([^ ]*\)\.[a-z]* "\(.*\)\.h"$/\1 \2/p' |
    tsort 2>&1 >/dev/null) || fault "circle of includes:" $'\n'"$circle"

for file in "${product[@]}"; do
    [[ $file == *.cpp ]] || continue
    stem=$(basename "$file" .cpp)
    if [[ -v untested[$file] ]]; then
        [ ! -e "tests/unit/${stem}_test.cpp" ] || fault "$file has a unit test, but is excused"
    elif ! grep -qsE '^ *(TEST|TEST_F|TEST_P|TYPED_TEST)\(' "tests/unit/${stem}_test.cpp"; then
        fault "$file has no tests in tests/unit/${stem}_test.cpp"
    fi
done
for file in "${!untested[@]}"; do
    [ -e "$file" ] || fault "$file is excused from a unit test, but is not there"
done

if mentions=$(grep -niwE 'tests?|testing|gtest|[a-z_]*_for_tests?|mocks?' "${product[@]}"); then
    fault "product code speaks of tests:" $'\n'"$mentions"
fi

# Build folders are ignored by git and so are they here.
for entry in *; do
    [[ " $top_level " == *" $entry "* || $entry == build* ]] ||
        fault "$entry does not belong to the top level"
done

((faults == 0)) || exit 1
echo "layering: ${#product[@]} files, ${#includes[@]} includes in order"
