#!/bin/bash
# SPDX-License-Identifier: MIT
# The same thirty kills with four connections.
# lab: needs nbdkit fio
# lab: time=480
export connections=4
# shellcheck source=tests/kernel/reconnect_kills.sh
. "${0%/*}/reconnect_kills.sh"
