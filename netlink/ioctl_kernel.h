// SPDX-License-Identifier: MIT
// The driver by ioctl, for kernels without the netlink family: a thread of ours serves the device.
#pragma once

#include "netlink/kernel.h"

#include <memory>
#include <string>

namespace nbd {

/// Serves at most one device at a time; after its end connect() may be called again. Create it
/// after daemonising: it starts a thread. Its destructor cuts the connections of a device still
/// served, without a word to the server. disconnect() works on any device, but has to open the node
/// of one that is not its own, which blocks while a netlink-made device waits for a reconnect.
/// `root` is "/" except in a sandbox.
Result<std::unique_ptr<Kernel>> open_ioctl_kernel(std::string root = "/");

}  // namespace nbd
