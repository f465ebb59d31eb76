// SPDX-License-Identifier: MIT
// Exit codes of the verbs, by what the caller can do about it.
#pragma once

#include "client/base/result.h"

namespace nbd {

enum ExitStatus : int {
    exit_done = 0,
    exit_no = 1,           ///< check: not attached
    exit_usage = 2,        ///< fix the call; check: cannot tell
    exit_absent = 3,       ///< no such device or export
    exit_denied = 4,       ///< become root
    exit_busy = 5,         ///< pick another, retry soon
    exit_unreachable = 6,  ///< retry later
    exit_refused = 7,      ///< fix credentials or server
    exit_unsupported = 8,  ///< load the driver, upgrade the kernel
    exit_bug = 9,
    exit_interrupted = 130,
    exit_terminated = 143,
};

constexpr ExitStatus exit_status(Kind kind) {
    switch (kind) {
        case Kind::usage:
            return exit_usage;
        case Kind::absent:
            return exit_absent;
        case Kind::denied:
            return exit_denied;
        case Kind::busy:
            return exit_busy;
        case Kind::unreachable:
            return exit_unreachable;
        case Kind::refused:
        case Kind::insecure:
        case Kind::protocol:
        case Kind::mismatch:
            return exit_refused;
        case Kind::unsupported:
            return exit_unsupported;
        case Kind::cancelled:
            return exit_interrupted;
        case Kind::internal:
            break;
    }
    return exit_bug;
}

}  // namespace nbd
