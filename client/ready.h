// SPDX-License-Identifier: MIT
// Waits until an attached device can be used: node, size, a read, partitions, udev.
#pragma once

#include "client/base/deadline.h"
#include "netlink/sysfs.h"

#include <cstdint>

namespace nbd {

/// `size` is what the device must have, in bytes. The node is opened in a child process, because
/// opening and reading may hang for ever if the connection dies meanwhile; its first open is also
/// what makes the kernel look for partitions. Returns how long the server took for it.
Result<Clock::duration> wait_until_usable(std::uint32_t index, std::uint64_t size,
                                          const Sysfs& sysfs, bool settle,
                                          const Deadline& deadline);

/// Whether a read of one block past every cache is answered. In a child, for the same reason.
bool can_read(std::uint32_t index, std::uint64_t block_size, const Sysfs& sysfs,
              const Deadline& deadline);

/// Opens and closes the node of a free device: the kernel drops stale partitions only then.
void drop_stale_partitions(std::uint32_t index, const Sysfs& sysfs);

}  // namespace nbd
