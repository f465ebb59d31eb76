# SPDX-License-Identifier: MIT
# shellcheck shell=bash
# What interop tests share: real servers on this machine, without a kernel driver. Sourced as
# `. "${0%/*}/lib.sh"`.

[ -n "${NBD_CLIENT:-}" ] || { echo 'skipped: NBD_CLIENT is not set' && exit 77; }
LAB_SCRATCH=$(mktemp -d)
# shellcheck source=tests/lab/lib.sh
. "${BASH_SOURCE[0]%/*}/../lab/lib.sh"

daemons=()

clean_up() {
    local name pid
    for name in "${!server_pid[@]}"; do end_server "$name" KILL 2>/dev/null || true; done
    for pid in "${daemons[@]}"; do kill "$pid" 2>/dev/null || true; done
    rm -rf "$LAB_SCRATCH"
}
trap clean_up EXIT

need() { # COMMAND...
    local command
    for command; do
        command -v "$command" >/dev/null || { echo "skipped: $command is not installed" && exit 77; }
    done
}

# Below the ephemeral ports, so that no outgoing connection takes it meanwhile.
free_port() {
    local port try
    for try in {1..100}; do
        port=$((20000 + (RANDOM + try) % 12000))
        listening "any:$port" || break
    done
    echo "$port"
}

has_ipv6() { grep -qs '^00000000000000000000000000000001 ' /proc/net/if_inet6; }

# Unlike the lab's, which serves one connection and ends, this one forks for each, and writes to no
# folder but ours.
allowlist=true generic='' # further lines of the section [generic]
serve_nbd_server() { # NAME HOST:PORT EXPORT=FILE...
    local name=$1 address=$2 entry
    shift 2
    {
        printf '[generic]\nlistenaddr = %s\nport = %s\nallowlist = %s\n%s\n' \
            "${address%:*}" "${address##*:}" "$allowlist" "$generic"
        for entry; do printf '[%s]\nexportname = %s\n' "${entry%%=*}" "${entry#*=}"; done
    } >"$LAB_SCRATCH/$name.conf"
    nbd-server -C "$LAB_SCRATCH/$name.conf" -p "$LAB_SCRATCH/$name.pid" >/dev/null 2>&1
    wait_until 10 test -s "$LAB_SCRATCH/$name.pid" || fail "server $name does not start"
    daemons+=("$(<"$LAB_SCRATCH/$name.pid")")
    wait_until 10 listening "$address" || fail "server $name does not listen on $address"
}

# The value of a Python EXPRESSION over `d`, the JSON document in $out.
json() { # EXPRESSION
    python3 -c 'import json, sys; d = json.loads(sys.argv[1]); print(eval(sys.argv[2]))' "$out" "$1"
}

options=() # of every client below
# The export at URI is told by every way of asking without a kernel.
check_export() { # URI NAME BYTES
    local uri=$1 name=$2 bytes=$3
    echo "$uri"
    expect_exit 0 client info --json "$uri" "${options[@]}"
    check_eq 'version' "$(json 'd["version"]')" 1
    check_eq 'name' "$(json 'd["name"]')" "$name"
    check_eq 'size' "$(json 'd["size"]')" "$bytes"
    check_eq 'uri' "$(json 'd["uri"]')" "$uri"
    check_eq 'read_only' "$(json 'd["read_only"] == ("read_only" in d["flags"])')" True
    check_eq 'has_flags' "$(json '"has_flags" in d["flags"]')" True
    check_eq 'stderr' "$err" ''
    expect_exit 0 client info "$uri" "${options[@]}"
    check_match 'info' "$out" "$bytes bytes"
    expect_exit 0 client attach --dry-run "$uri" "${options[@]}"
    check_match 'the plan' "$out" "size_bytes: $((bytes / 512 * 512))"$'\n'
}

# The server of URI lists NAME, with DESCRIPTION.
check_listed() { # URI NAME DESCRIPTION
    expect_exit 0 client exports --json "$1" "${options[@]}"
    check_eq 'version' "$(json 'd["version"]')" 1
    check_eq 'names' "$(json '[e["name"] for e in d["exports"]]')" "['$2']"
    check_eq 'description' "$(json 'd["exports"][0]["description"]')" "$3"
    expect_exit 0 client exports "$1" "${options[@]}"
    check_match 'exports' "$out" "$2"
}

# Fails unless COMMAND ends with CODE and tells CAUSE and HINT on stderr, nothing on stdout.
check_refused() { # CODE CAUSE HINT COMMAND...
    local expected=$1 cause=$2 hint=$3
    shift 3
    expect_exit "$expected" "$@"
    check_eq 'stdout' "$out" ''
    check_match 'the cause' "$err" "^nbd-client: cannot .*$cause"
    check_match 'the hint' "$err" $'\n'"hint: .*$hint"
}
