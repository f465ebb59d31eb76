#!/bin/bash
# SPDX-License-Identifier: MIT
# The measured side of throughput.sh: attaches each row in turn and loads it, telling figures.py when.
# lab: needs nbdkit openssl fio
# lab: time=900 memory=768M
. "$LAB/lib.sh"
rounds=$1 reference=$2 rows=$3
exec 9>&1 # where fio's jobs tell

# udev would have done this on a machine: the crypto that the processor has instructions for.
modprobe -q "$(cat /sys/devices/system/cpu/modalias 2>/dev/null)" || true
make_pki
printf '[overrides]\ndisabled-version = tls1.3\n' >only-1.2
serve() { # NAME PORT NBDKIT...
    start_server "$1" "127.0.0.1:$2" "${@:3}" -f -i 127.0.0.1 -p "$2" --tls=on \
        --tls-certificates="$PWD/pki" memory 64M
}
serve newest 10809 nbdkit
serve older 10810 env GNUTLS_SYSTEM_PRIORITY_FILE="$PWD/only-1.2" nbdkit

# Marks are made where a job's work begins and ends, so that its preparations do not count.
{
    printf '%s\n' '[global]' filename=/dev/nbd0 direct=1 ioengine=libaio iodepth=16 \
        time_based runtime=2 stonewall
    for job in 'read read 128k' 'write write 128k' 'random randread 4k'; do
        read -r name rw size <<<"$job"
        printf '[%s]\nrw=%s\nbs=%s\n' "$name" "$rw" "$size"
        for when in begin:pre end:post; do
            # shellcheck disable=SC2016 # for awk
            printf 'exec_%srun=(awk \047/^ctxt/ { print "@ %s %s", $2 }\047 /proc/stat >&9)\n' \
                "${when#*:}" "${when%:*}" "$name"
        done
    done
} >"$PWD/jobs"

load() { # ROW
    echo "@ row $1"
    fio --output-format=terse --output=terse jobs >fio.log 2>&1 || { cat fio.log && fail "$1: fio"; }
    awk -F';' '{ print "@ done", $3, $6 + $47, $8 + $49, $9 + $50 }' terse
}

# Fails unless the connection goes the way that the row says.
check_way() { # WAY
    local kernel=0
    [ ! -e /proc/net/tls_stat ] || kernel=$(tls_count TlsCurrTxSw)
    case $1 in
        clear) check_eq 'TLS' "$(relays | wc -l) $kernel" '0 0' ;;
        kernel) check_eq 'TLS' "$(relays | wc -l) $kernel" '0 1' ;;
        relay) check_eq 'TLS' "$(relays | wc -l) $kernel" '1 0' ;;
    esac
}

ours() { # ROW WAY URI ATTACH-ARG...
    [[ $1 =~ $rows ]] || return 0
    expect_exit 0 client attach "${@:3}" --connections 1 /dev/nbd0
    check_way "$2"
    load "$1"
    expect_exit 0 client detach /dev/nbd0
}

theirs() { # ROW ARG...
    [[ -n $reference && $1 =~ $rows ]] || return 0
    expect_exit 0 "$reference" 127.0.0.1 10809 /dev/nbd0 -N store "${@:2}"
    wait_until 10 attached nbd0
    load "$1"
    expect_exit 0 "$reference" -d /dev/nbd0
    wait_until 10 detached nbd0
}

tls() { # ROW WAY PORT CIPHER ATTACH-ARG...
    ours "$1" "$2" "nbds://127.0.0.1:$3/" --tls-ca tls/ca.pem --tls-ciphers "$4" "${@:5}"
}

# Memory that is touched for the first time would be the first rows' burden.
for port in 10809 10810; do
    expect_exit 0 client attach "nbd://127.0.0.1:$port/" /dev/nbd0
    dd if=/dev/urandom of=/dev/nbd0 bs=1M count=64 oflag=direct status=none
    expect_exit 0 client detach /dev/nbd0
done

measure() { # NUMBER
    case $1 in
        0) ours 'plain' clear nbd://127.0.0.1/ ;;
        1) theirs 'reference, plain' ;;
        2) theirs 'reference, proxy' -x -A "$PWD/tls/ca.pem" -H 127.0.0.1 ;;
        3) tls 'relay, AES-256-GCM' relay 10809 aes-256-gcm --tls-offload never ;;
        4) tls 'kernel, AES-128-GCM' kernel 10809 aes-128-gcm ;;
        5) tls 'kernel, AES-256-GCM' kernel 10809 aes-256-gcm ;;
        6) tls 'kernel, ChaCha20-Poly1305' kernel 10809 chacha20-poly1305 ;;
        7) tls 'kernel, 1.2 AES-128-GCM' kernel 10810 aes-128-gcm ;;
    esac
}
for ((round = 0; round < rounds; round++)); do
    # In another order each time, since it matters what was measured before.
    for ((n = 0; n < 8; n++)); do measure $(((n * (2 * round + 1) + round) % 8)); done
done

# The driver with the highest priority is the one in use.
driver() { # NAME
    awk -v wanted="$1" '
        $1 == "name" { on = $3 == wanted }
        on && $1 == "driver" { driver = $3 }
        on && $1 == "priority" && (best == "" || $3 > top) { best = driver; top = $3 }
        END { print best == "" ? "none" : best " (priority " top ")" }' /proc/crypto
}
echo "@ note kernel $(uname -r), processors $(nproc), $(nbdkit --version)"
[ -z "$reference" ] || echo "@ note reference $("$reference" -V 2>&1 | head -n 1)"
for name in 'gcm(aes)' 'rfc7539(chacha20,poly1305)'; do
    echo "@ note the kernel's $name: $(driver "$name")"
done
