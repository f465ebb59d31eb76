#!/bin/bash
# SPDX-License-Identifier: MIT
# The core scenarios under the kernel of Debian 12, with two processors.
set -euo pipefail
cd "$(dirname "$0")"
exec ../lab/qemu bookworm scenarios/core.sh "$@"
