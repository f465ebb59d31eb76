#!/bin/bash
# SPDX-License-Identifier: MIT
# Swap over TLS in the kernel, under the kernel of Debian 12 with little memory.
set -euo pipefail
cd "$(dirname "$0")"
exec ../lab/qemu bookworm scenarios/swap.sh "$@"
