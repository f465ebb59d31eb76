#!/bin/bash
# SPDX-License-Identifier: MIT
# Proves that the program, its manuals and its completion know the same verbs, options and columns.
#
#   NBD_CLIENT=PROGRAM tests/source/options_agree.sh
set -euo pipefail
export LC_ALL=C

cd "$(dirname "$0")/../.."
client=${NBD_CLIENT:?the program to compare}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

faults=0
fault() {
    printf 'options: %s\n' "$*"
    faults=$((faults + 1))
}

same() { # WHAT FILE FILE: both have the same lines, and some
    [[ -s $2 ]] || fault "$1: nothing to compare"
    diff "$2" "$3" >"$scratch/diff" ||
        fault "$1 differ:"$'\n'"$(grep '^[<>]' "$scratch/diff")"
}

# The words in front of a paragraph (.TP): what a manual says of its own in that place.
tags() { # MANUAL
    awk 'tag { print; tag = 0 } /^\.TP/ { tag = 1 }' "$1" | sed 's/\\f[A-Z]//g; s/\\-/-/g; s/\\~/ /g; s/"//g'
}

mapfile -t verbs < <("$client" --words verbs)
((${#verbs[@]} >= 8)) || fault "only ${#verbs[@]} verbs"

echo 'help and word list of each verb'
for verb in "${verbs[@]}"; do
    "$client" --words options "$verb" | sort >"$scratch/words"
    "$client" "$verb" --help | sed -n 's/^ \{2,6\}\(-.*\)/\1/p' | sed 's/  .*//' |
        grep -oE -- '(^|[ ,])--?[a-z-]+|-[A-Z]\b' | tr -d ' ,' | sort >"$scratch/help"
    same "the words and the help of $verb" "$scratch/words" "$scratch/help"
done

echo 'the manual'
{
    "$client" --words options
    for verb in "${verbs[@]}"; do "$client" --words options "$verb"; done
} | sort -u >"$scratch/words"
sed -n '/^\.SH OPTIONS/,/^\.SH SIGNALS/p' man/nbd-client.8 >"$scratch/options.8"
tags "$scratch/options.8" | grep -oE -- '--[a-z-]+|-[a-zA-Z] ?,' | tr -d ' ,' | sort -u >"$scratch/manual"
same 'the options of the program and of nbd-client(8)' "$scratch/words" "$scratch/manual"
sed -n '/^\.SS Verbs/,/^\.SH OPTIONS/p' man/nbd-client.8 >"$scratch/verbs.8"
tags "$scratch/verbs.8" | sed -n 's/^\.B //p' >"$scratch/manual"
printf '%s\n' "${verbs[@]}" >"$scratch/words"
same 'the verbs of the program and of nbd-client(8)' "$scratch/words" "$scratch/manual"

echo 'nbdtab'
# Options of attach that cannot stand in a table: those that choose from it and those of every verb.
{
    printf -- '--%s\n' all nbdtab tab
    "$client" --words options check
} | sort >"$scratch/not_keys"
"$client" --words options attach | grep -- '^--' | sort | comm -23 - "$scratch/not_keys" |
    sed 's/^--//' >"$scratch/words"
sed -n '/^\.SH OPTIONS/,/^\.SS Old/p' man/nbdtab.5 | sed -n '/^\.I Device/,$p' |
    grep -E '^\.B[RI]? [a-z\\-]+(=| ,|$)' | grep -v yes | sed 's/\\-/-/g; s/^\.B[RI]* //; s/[= ,].*//' |
    sort -u >"$scratch/manual"
same 'the options of attach and of nbdtab(5)' "$scratch/words" "$scratch/manual"

# The old names: the program knows each one (what it says of a senseless value does not matter here).
sed -n '/^\.SS Old/,/^\.SH EXAMPLE/p' man/nbdtab.5 >"$scratch/old.5"
mapfile -t old < <(tags "$scratch/old.5" | sed 's/^\.B[RI]* //; s/[= ].*//')
((${#old[@]} >= 15)) || fault "only ${#old[@]} old names"
for key in "${old[@]}" nonsense; do
    echo "nbd0 $scratch/none vm unix,$key" >"$scratch/nbdtab"
    said=$(timeout 20 "$client" attach --all --dry-run --nbdtab "$scratch/nbdtab" 2>&1) && fault "$key: attached?"
    case $key:$said in
        nonsense:*'is not known'*) ;;
        nonsense:* | *:*'is not known'*) fault "nbdtab key $key: $said" ;;
    esac
done

echo 'completion'
# shellcheck source=client/completion/nbd-client.bash
. client/completion/nbd-client.bash
complete_line() { # WORD...: what the last word may become
    COMP_WORDS=("$client" "$@")
    COMP_CWORD=$#
    COMPREPLY=()
    _nbd_client "$client"
    printf '%s\n' "${COMPREPLY[@]}"
}
expect() { # LINES WORD...
    local want=$1 got
    shift
    got=$(complete_line "$@")
    [[ $got == "$want" ]] || fault "completing '$*': got '$got' instead of '$want'"
}
columns=$("$client" --words columns)
touch "$scratch/ca.pem"
expect "$("$client" --words verbs)" ''
expect $'reattach\nresize' re
expect "$("$client" --words options)" -
expect "$("$client" --words options attach)" attach -
expect '--read-only' attach --read
expect '--json' -v list --js
expect $'--reconnect-for\n--reconnect-delay' attach nbd://store/disk --rec
expect '' check --read
expect "$columns" list -o ''
expect "$columns" list --output = ''
expect "NAME,${columns//$'\n'/$'\n'NAME,}" list -o NAME,
expect 'NAME,SIZE' list -o NAME,SIZ
expect "$scratch/ca.pem" attach --tls-ca "$scratch/ca"
expect "$scratch/ca.pem" attach --tls-ca = "$scratch/ca"

if ((faults > 0)); then
    echo "options: $faults faults"
    exit 1
fi
echo 'options: the program, its manuals and its completion agree'
