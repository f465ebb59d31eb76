// SPDX-License-Identifier: MIT
// Stays with a device that no watchdog can repair: no reconnecting asked for, or the ioctl
// interface.
#pragma once

#include "client/attach.h"
#include "client/watch.h"

#include <string>

namespace nbd {

/// Returns when the device is gone. Netlink: its server's end is the error. Ioctl: the device is
/// served from inside this process; with reconnecting asked for it is attached again after each
/// outage, with I/O errors in between (the interface cannot keep requests waiting). TERM and INT
/// detach a device nobody uses; TERM leaves a netlink device to the kernel.
Result<void> hold(const AttachRequest& request, Attachment attachment, Dialer dialer,
                  const WatchWorld& world);

}  // namespace nbd
