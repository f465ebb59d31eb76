#!/bin/bash
# SPDX-License-Identifier: MIT
# How fast a device is and what it costs: in the clear, with the kernel's TLS, with the relay, and
# with the reference nbd-client and its TLS proxy.
#
#   tests/bench/throughput.sh [uml|SUITE [ROUNDS [ROWS]]]    (uml 3 .; a SUITE is slow, 1)
#
# SUITE as for tests/lab/qemu; ROWS is a regular expression for the names of rows. Each round measures
# every row once, in one kernel and with one server; the tables have medians over the rounds, and
# medians of each round's ratios, which stand what a busy machine does to the figures. Processor time
# is that of all: the kernel, the server, the load. Environment as for tests/lab/uml.
set -euo pipefail
cd "$(dirname "$0")"

kernel=${1:-uml} rows=${3:-.}
case $kernel in
    uml) runner=(../lab/uml) rounds=${2:-3} ;;
    # With instructions for AES, which both sides' TLS is made for.
    *)
        runner=(../lab/qemu "$kernel") rounds=${2:-1}
        export LAB_CPU=${LAB_CPU:-max,-cx16}
        ;;
esac
reference=$(./fetch-reference) || { echo "no rows of the reference: $reference" && reference=; }
exec python3 figures.py "${runner[@]}" scenarios/throughput.sh "$rounds" "$reference" "$rows"
