// SPDX-License-Identifier: MIT
// Sets up the request queue of a device just attached, before anybody else uses it.
#pragma once

#include "client/base/deadline.h"
#include "client/protocol/handshake.h"
#include "netlink/sysfs.h"

#include <cstdint>

namespace nbd {

struct QueueNeeds {
    const ExportInfo& agreed;
    bool quick = false;       ///< each request must be answered within the quick timeout
    bool kernel_tls = false;  ///< the kernel encrypts
};

/// Keeps requests below what server and timeout allow; what cannot be set is a warning in the log.
Result<void> prepare_queue(std::uint32_t index, const QueueNeeds& needs, const Sysfs& sysfs,
                           const Deadline& deadline);

}  // namespace nbd
