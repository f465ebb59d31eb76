// SPDX-License-Identifier: MIT
// The driver by generic netlink.
#pragma once

#include "netlink/channel.h"
#include "netlink/kernel.h"

#include <memory>

namespace nbd {

/// Kind::unsupported when the kernel has no nbd netlink family; nothing is loaded here.
Result<std::unique_ptr<Kernel>> open_netlink_kernel();

/// The parts, over sockets that the caller brings.
std::unique_ptr<Kernel> netlink_kernel_over(Channel channel);
/// `socket` is non-blocking and a member of the group.
std::unique_ptr<LinkEvents> link_events_over(SocketPtr socket);

}  // namespace nbd
