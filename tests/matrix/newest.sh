#!/bin/bash
# SPDX-License-Identifier: MIT
# The core scenarios under the newest Debian kernel that apt reaches, with two processors.
set -euo pipefail
cd "$(dirname "$0")"
exec ../lab/qemu newest scenarios/core.sh "$@"
