# SPDX-License-Identifier: MIT
# shellcheck shell=bash
# What scenarios share: assertions, bounded waiting, servers by name. Sourced as `. "$LAB/lib.sh"`.
set -Eeuo pipefail
trap 'echo "FAILED ${BASH_SOURCE[0]##*/}:$LINENO: $BASH_COMMAND (code $?)"' ERR

declare -A server_address server_command server_pid
code='' out='' err='' # of the last `run`
load='' now=''

# --- assertions

fail() {
    echo "FAILED ${BASH_SOURCE[-1]##*/}:${BASH_LINENO[-2]}: $*"
    [ -z "$out" ] || printf 'stdout of the last command:\n%s\n' "$out"
    [ -z "$err" ] || printf 'stderr of the last command:\n%s\n' "$err"
    exit 1
}

check_eq() { # WHAT ACTUAL EXPECTED
    [ "$2" = "$3" ] || fail "$1 is '$2', not '$3'"
}

check_match() { # WHAT ACTUAL REGEX
    [[ $2 =~ $3 ]] || fail "$1 is '$2', which does not match '$3'"
}

# Runs COMMAND; $code, $out and $err say how it went. Files, not pipes: a daemon the command leaves
# behind would keep a pipe open.
run() {
    code=0
    "$@" >"$LAB_SCRATCH/out" 2>"$LAB_SCRATCH/err" || code=$?
    out=$(<"$LAB_SCRATCH/out") err=$(<"$LAB_SCRATCH/err")
}

expect_exit() { # CODE COMMAND...
    local expected=$1
    shift
    run "$@"
    [ "$code" -eq "$expected" ] || fail "'$*' exits with $code, not $expected"
}

client() { timeout "${CLIENT_SECONDS:-30}" "$NBD_CLIENT" "$@"; }

# Polls until COMMAND succeeds; fails after SECONDS.
wait_until() {
    local deadline=$((SECONDS + $1 + 1))
    shift
    until "$@"; do
        [ "$SECONDS" -lt "$deadline" ] || return 1
        pause 0.05
    done
}

exec {silence}<> <(:)
pause() { # SECONDS, without forking
    read -rt "$1" -u "$silence" || true
}

milliseconds() { echo $((${EPOCHREALTIME/./} / 1000)); }

# --- devices

attached() { [ -e "/sys/block/${1#/dev/}/pid" ]; }
detached() { ! attached "$1"; }
device_bytes() { blockdev --getsize64 "$1"; }
sum_of() { sha256sum <"$1" | cut -d ' ' -f 1; }

# What the server's side must get is read past every cache of ours.
device_sum() { dd if="$1" bs=1M iflag=direct status=none | sha256sum | cut -d ' ' -f 1; }

random_file() { # FILE MEBIBYTES
    head -c "$(($2 * 1048576))" /dev/urandom >"$1"
}

# --- servers: each has a NAME and an ADDRESS, /PATH or HOST:PORT

# Looks at the kernel's tables, since one-shot servers would count a probe; without forking, since
# recovery is timed from this.
listening() { # ADDRESS
    local table words port=''
    [[ $1 = /* ]] || printf -v port :%04X "${1##*:}"
    for table in /proc/net/tcp /proc/net/tcp6 /proc/net/unix; do
        [ -r "$table" ] || continue
        while read -ra words; do
            case $1 in
                /*) [[ ${words[3]-} = 00010000 && ${words[7]-} = "$1" ]] && return ;;
                *) [[ ${words[3]-} = 0A && ${words[1]} = *"$port" ]] && return ;;
            esac
        done <"$table"
    done
    return 1
}

start_server() { # NAME ADDRESS COMMAND...
    local name=$1
    server_address[$name]=$2
    shift 2
    server_command[$name]=$(printf '%q ' "$@")
    restart_server "$name"
}

restart_server() { # NAME; the same command again
    launch_server "$1"
    wait_until 15 listening "${server_address[$1]}" || {
        cat "$LAB_SCRATCH/$1.log"
        fail "server $1 does not listen on ${server_address[$1]}"
    }
}

launch_server() { # NAME; does not wait until it listens
    local name=$1 address=${server_address[$1]}
    case $address in /*) rm -f "$address" ;; esac
    # A session of its own, so that a signal reaches the children of a forking server too.
    eval "exec setsid ${server_command[$name]}" </dev/null >>"$LAB_SCRATCH/$name.log" 2>&1 &
    server_pid[$name]=$!
}

signal_server() { # NAME SIGNAL
    kill -"$2" -- "-${server_pid[$1]}"
}

end_server() { # NAME [SIGNAL]
    signal_server "$1" "${2:-TERM}"
    wait "${server_pid[$1]}" 2>/dev/null || true
}

kill_server() { end_server "$1" KILL; }
freeze_server() { signal_server "$1" STOP; }
thaw_server() { signal_server "$1" CONT; }

# nbdkit up to 1.32 aborts when several threads find their connection gone (an assertion in
# raw_send_socket): one thread each.
serve_nbdkit() { # NAME ADDRESS NBDKIT-ARG...
    local name=$1 address=$2
    shift 2
    case $address in
        /*) start_server "$name" "$address" nbdkit -f -t 1 -U "$address" "$@" ;;
        *) start_server "$name" "$address" \
                nbdkit -f -t 1 -i "${address%:*}" -p "${address##*:}" "$@" ;;
    esac
}

serve_qemu_nbd() { # NAME ADDRESS QEMU-NBD-ARG...
    local name=$1 address=$2
    shift 2
    case $address in
        /*) start_server "$name" "$address" qemu-nbd -t -e 0 -f raw -k "$address" "$@" ;;
        *) start_server "$name" "$address" \
                qemu-nbd -t -e 0 -f raw -b "${address%:*}" -p "${address##*:}" "$@" ;;
    esac
}

serve_nbd_server() { # NAME HOST:PORT EXPORT=FILE...
    local name=$1 address=$2 entry
    shift 2
    {
        printf '[generic]\nlistenaddr = %s\nport = %s\nallowlist = true\n' \
            "${address%:*}" "${address##*:}"
        for entry; do printf '[%s]\nexportname = %s\n' "${entry%%=*}" "${entry#*=}"; done
    } >"$LAB_SCRATCH/$name.conf"
    start_server "$name" "$address" nbd-server -d -C "$LAB_SCRATCH/$name.conf" -p "/run/$name.pid"
}

# --- certificates, made anew for each test: NAME.pem with NAME.key, in $LAB_SCRATCH/tls

# An authority that vouches for others.
make_authority() { # NAME
    mkdir -p "$LAB_SCRATCH/tls"
    (
        cd "$LAB_SCRATCH/tls"
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 \
            -subj "/CN=authority $1" -keyout "$1.key" -out "$1.pem" \
            -addext basicConstraints=critical,CA:TRUE -addext keyUsage=keyCertSign,cRLSign
    ) >"$LAB_SCRATCH/tls.log" 2>&1 || fail "no authority $1: $(<"$LAB_SCRATCH/tls.log")"
}

# A certificate for NAMES (DNS:a,IP:b), from FIRST to LAST (YYYYMMDDHHMMSSZ) or around now.
make_certificate() { # AUTHORITY NAME NAMES [FIRST LAST]
    (
        cd "$LAB_SCRATCH/tls"
        printf '%s\n' '[ca]' 'default_ca=it' '[it]' "database=$2.index" "serial=$2.serial" \
            'new_certs_dir=.' 'default_md=sha256' 'policy=any' 'default_days=30' 'unique_subject=no' \
            'rand_serial=yes' '[any]' 'commonName=supplied' '[more]' "subjectAltName=$3" >"$2.conf"
        : >"$2.index"
        openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$2" \
            -keyout "$2.key" -out "$2.request"
        openssl ca -batch -notext -config "$2.conf" -extensions more -cert "$1.pem" \
            -keyfile "$1.key" -in "$2.request" -out "$2.pem" ${4:+-startdate "$4" -enddate "$5"}
    ) >"$LAB_SCRATCH/tls.log" 2>&1 || fail "no certificate $2: $(<"$LAB_SCRATCH/tls.log")"
}

# The folder FOLDER with the file names that nbdkit and qemu-nbd expect.
lay_out_certificates() { # FOLDER AUTHORITY SERVER [CLIENT]
    mkdir -p "$1"
    (
        cd "$LAB_SCRATCH/tls"
        cp "$2.pem" "$1/ca-cert.pem"
        cp "$3.pem" "$1/server-cert.pem" && cp "$3.key" "$1/server-key.pem"
        [ -z "${4:-}" ] || { cp "$4.pem" "$1/client-cert.pem" && cp "$4.key" "$1/client-key.pem"; }
    )
}

# An authority `ca`, and a certificate of its for servers here.
make_pki() {
    make_authority ca
    make_certificate ca server DNS:localhost,IP:127.0.0.1,IP:::1
    lay_out_certificates "$LAB_SCRATCH/pki" ca server
}

serve_tls() { # NAME ADDRESS NBDKIT-ARG...
    serve_nbdkit "$1" "$2" --tls=require --tls-certificates="$LAB_SCRATCH/pki" "${@:3}"
}

tls_count() { # NAME; one of the kernel's own counters
    awk -v name="$1" '$1 == name { print $2 }' /proc/net/tls_stat
}

# --- the proxy that breaks connections, and the server that commits faults of TLS

start_proxy() { # NAME LISTEN TARGET
    start_server "$1" "$2" "$LAB_TOOLS/lab_cut_proxy" "$2" "$3" "/run/$1.orders"
}

serve_faulty() { # NAME LISTEN FILE [SETTING=VALUE...]; with the certificate `server`
    start_server "$1" "$2" "$LAB_TOOLS/lab_tls_server" "$2" "$3" "$LAB_SCRATCH/tls/server" "${@:4}"
}

# Gives what takes its orders from /run/NAME.orders one and waits until it is carried out; prints
# the answer.
order() { # NAME ORDER...
    local name=$1 log="$LAB_SCRATCH/$1.log" before
    shift
    before=$(wc -l <"$log")
    echo "$*" >"/run/$name.orders"
    wait_until 10 lines_after "$log" "$before" || fail "$name does not answer '$*'"
    tail -n +$((before + 1)) "$log"
    tail -n 1 "$log" | grep -q '^ok' || fail "$name refuses '$*'"
}

lines_after() { # FILE COUNT
    [ "$(wc -l <"$1")" -gt "$2" ]
}

# --- a verifying load, and what outages do to it

start_load() { # DEVICE VERIFY-ARG...
    rm -f "$LAB_SCRATCH/load-end"
    "$LAB_TOOLS/lab_verify" "$1" --until-file "$LAB_SCRATCH/load-end" --pulse 100 \
        --timeline "$LAB_SCRATCH/timeline" "${@:2}" >"$LAB_SCRATCH/load" 2>&1 &
    load=$!
}

end_load() { # fails unless every operation succeeded and every block was right
    touch "$LAB_SCRATCH/load-end"
    local code=0
    wait "$load" || code=$?
    cat "$LAB_SCRATCH/load"
    [ "$code" -eq 0 ] || fail "the load has failed"
}

load_runs() { kill -0 "$load"; }

now_ms() { # sets $now, of the clock in the timeline, without forking
    read -r now _ </proc/uptime
    now=$((10#${now/./} * 10))
}

# Kills the server NAME, starts it again SECONDS later; when both were is noted for `figures`.
outage() { # NAME SECONDS
    local killed before last patience
    now_ms && killed=$now
    kill_server "$1"
    sleep "$2"
    launch_server "$1"
    now_ms && last=$now before=$now patience=$((now + 30000))
    # The last look that found nothing is the earliest time it can have been back.
    until listening "${server_address[$1]}"; do
        pause 0.005
        last=$before
        now_ms && before=$now
        [ "$now" -lt "$patience" ] || fail "server $1 does not come back"
    done
    echo "$killed $last" >>"$LAB_SCRATCH/outages"
}

# Per outage, in milliseconds after the server's return: `new`, the first completion of an operation
# that began in the outage; `all`, the last completion of one that began before the return. One line:
# outages=N new_median=N new_max=N all_max=N
figures() {
    awk '
        BEGIN { n = 0 }
        FNR == NR { killed[n] = $1; back[n++] = $2; next }
        {
            for (k = n - 1; k >= 0 && back[k] > $2; k--);
            if (k < 0 || $1 > back[k]) next
            if ($2 - back[k] > all) all = $2 - back[k]
            if ($1 > killed[k] + 20 && (!(k in new) || $2 - back[k] < new[k])) new[k] = $2 - back[k]
        }
        END {
            for (k in new) sorted[++count] = new[k]
            for (i = 2; i <= count; i++)
                for (j = i; j > 1 && sorted[j] < sorted[j - 1]; j--) {
                    t = sorted[j]; sorted[j] = sorted[j - 1]; sorted[j - 1] = t
                }
            printf "outages=%d new_median=%d new_max=%d all_max=%d\n", count,
                sorted[int((count + 1) / 2)], sorted[count], all
        }' "$LAB_SCRATCH/outages" "$LAB_SCRATCH/timeline"
}

# --- looking at answers and sockets

json() { # PYTHON-EXPRESSION over `d`, the document in $out
    /usr/bin/python3 -c 'import json, sys; d = json.load(sys.stdin); print(eval(sys.argv[1]))' \
        "$1" <<<"$out"
}

connections_to() { # PORT; how many are established, seen from the server's side
    awk -v port="$(printf ':%04X' "$1")" \
        '$2 ~ port "$" && $4 == "01" { n++ } END { print n + 0 }' /proc/net/tcp
}

local_ports() { # PORT; our ends of the connections to it, a line each
    awk -v port="$(printf ':%04X' "$1")" \
        '$3 ~ port "$" && $4 == "01" { print $2 }' /proc/net/tcp |
        while IFS=: read -r _ end; do echo $((16#$end)); done | sort
}

has_ended() { ! kill -0 "$1" 2>/dev/null; }
kill_watchdog() { # DEVICE; a read that it has left behind may go on waiting for the server
    local pid
    pid=$(field "$1" PID)
    kill -KILL "$pid"
    wait_until 5 has_ended "$pid" || fail 'the watchdog does not die'
}

# Lines `PROCESS COUNT`: who has how many connections to the port open.
holders_of() { # PORT
    local sockets
    sockets=$(awk -v port="$(printf ':%04X' "$1")" \
        '$3 ~ port "$" && $4 == "01" { print "socket:[" $10 "]" }' /proc/net/tcp)
    { find /proc/[0-9]*/fd -type l -printf '%h %l\n' 2>/dev/null || true; } |
        grep -F "$sockets" | awk -F/ '{ n[$3]++ } END { for (pid in n) print pid, n[pid] }'
}

field() { # DEVICE COLUMN: one cell of the list
    client list --raw --noheadings --bytes -o "$2" "$1"
}

field_is() { # DEVICE COLUMN VALUE
    [ "$(field "$1" "$2")" = "$3" ]
}

has_reconnected() { # DEVICE COUNT: so often at least
    [ "$(field "$1" RECONNECTS)" -ge "$2" ]
}

await_field() { # SECONDS DEVICE COLUMN VALUE
    wait_until "$1" field_is "$2" "$3" "$4" ||
        fail "$3 of $2 is '$(field "$2" "$3")' and does not become '$4'"
}

client_processes() { # how many processes run the program under test
    local exe n=0
    for exe in /proc/[0-9]*/exe; do
        [ ! "$exe" -ef "$NBD_CLIENT" ] || n=$((n + 1))
    done
    echo "$n"
}

no_clients_left() { [ "$(client_processes)" -eq 0 ]; }

relays() { # process ids of those that carry TLS for the kernel
    local comm
    for comm in /proc/[0-9]*/comm; do
        [ "$(<"$comm")" != nbd-tls-relay ] || { comm=${comm%/comm} && echo "${comm#/proc/}"; }
    done 2>/dev/null
}
