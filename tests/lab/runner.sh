# SPDX-License-Identifier: MIT
# shellcheck shell=bash disable=SC2034,SC2154 # variables for the runners, and of theirs
# What the runners `uml` and `qemu` share: the scenario's wishes, what is under test, the scratch
# directory, the verdict. Sourced with $lab set; $0 names the runner.
runner=${0##*/}
root=$(cd "$lab/../.." && pwd -P)
PATH=$PATH:/usr/sbin:/sbin

skip() { echo "skipped: $*"; exit 77; }
refuse() { echo "$runner: $*" >&2; exit 2; }

need() { # COMMAND...
    local command
    for command; do
        command -v "$command" >/dev/null || skip "needs $command, which is not installed"
    done
}

# Sets $memory, $module and $time as the scenario's `# lab:` lines wish.
read_wishes() { # SCENARIO DEFAULT-MEMORY
    local word rest
    [ -r "$1" ] || refuse "cannot read $1"
    memory=${LAB_MEMORY:-$2} module=nbd time=180
    while read -r word rest; do
        case $word in
            needs)
                # shellcheck disable=SC2086 # a list of words
                need $rest ;;
            nomodule) module='' ;;
            memory=*) memory=${word#*=} ;;
            time=*) time=${word#*=} ;;
            *=*) module="$module $word $rest" ;;
            *) refuse "$1: unknown lab word '$word'" ;;
        esac
    done < <(sed -n 's/^# lab: *//p' "$1")
}

find_what_is_under_test() {
    NBD_CLIENT=$(realpath -m "${NBD_CLIENT:-$root/build/nbd-client}")
    LAB_TOOLS=$(realpath -m "${LAB_TOOLS:-$(dirname "$NBD_CLIENT")}")
    [ -x "$NBD_CLIENT" ] || refuse "cannot run $NBD_CLIENT: build it, or set NBD_CLIENT"
}

# Lays out $LAB_SCRATCH with what the guest's first process needs to know; the kernel's command line
# could not quote it.
prepare_scratch() { # MODULE-DIRECTORY SECONDS SCENARIO [ARG...]
    LAB_SCRATCH=$(mktemp -d "${LAB_SCRATCH_PARENT:-/var/tmp}/nbd-lab.XXXXXX")
    {
        printf 'export %s=%q\n' LAB "$lab" LAB_ROOT "$root" LAB_MODULE "$module" LAB_MODULES "$1" \
            LAB_SECONDS "$2" LAB_SCRATCH "$LAB_SCRATCH" LAB_TOOLS "$LAB_TOOLS" \
            NBD_CLIENT "$NBD_CLIENT"
        shift 2
        printf 'set -- %q' "$1"
        shift
        [ $# -eq 0 ] || printf ' %q' "$@"
        printf '\n'
    } >"$LAB_SCRATCH/settings"
    ln -s "$lab/init" "$LAB_SCRATCH/init"
}

# Exits as the scenario has; without its word, says how the machine ended.
deliver_verdict() { # CODE-OF-THE-MACHINE SECONDS LOG...
    local ended=$1 seconds=$2 code=1
    shift 2
    if [ -s "$LAB_SCRATCH/exit" ]; then
        exit "$(<"$LAB_SCRATCH/exit")"
    elif [ "$ended" -eq 124 ] || [ "$ended" -eq 137 ]; then
        echo "$runner: the kernel did not answer for $seconds s"
        code=124
    else
        echo "$runner: the kernel ended (code $ended) without a result"
    fi
    tail -n 30 "$@"
    exit "$code"
}
