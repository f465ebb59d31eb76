// SPDX-License-Identifier: MIT
// Runs the watchdog of one device: waits, tells step() what happened, does what it answers.
#pragma once

#include "client/attach.h"
#include "client/base/notify.h"
#include "client/signals.h"
#include "netlink/kernel.h"
#include "netlink/sysfs.h"

#include <string>

namespace nbd {

/// What a watchdog needs of the world around it; all borrowed.
struct WatchWorld {
    Kernel& kernel;
    const Sysfs& sysfs;
    const Signals& signals;
    Notifier& notifier;
    std::string runtime_directory;
};

/// Watches until the device is gone or a signal ends it; `attachment` brings the lock.
/// `attachment.connections` may be fewer than the device has: the others are a predecessor's.
/// Returns normally when the watchdog has nothing more to do; an error only if it could not start.
Result<void> watch(const AttachRequest& request, Attachment attachment, Dialer dialer,
                   const WatchWorld& world);

}  // namespace nbd
