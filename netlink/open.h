// SPDX-License-Identifier: MIT
// Loads the nbd module if needed and picks the interface to the driver.
#pragma once

#include "netlink/kernel.h"

#include <memory>

namespace nbd {

enum class Interface { automatic, netlink, ioctl };

/// `automatic`: netlink; ioctl only where the family is missing after `modprobe nbd`.
Result<std::unique_ptr<Kernel>> open_kernel(Interface wanted);

}  // namespace nbd
