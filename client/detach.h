// SPDX-License-Identifier: MIT
// Detaches a device: refuses while it is used, flushes, disconnects under a timer, waits until
// free.
#pragma once

#include "netlink/kernel.h"
#include "netlink/sysfs.h"

#include <cstdint>
#include <string>

namespace nbd {

/// Returns when the device is free; one that is free already is success. Without `force` a device
/// that is mounted, swapped on or held is Kind::busy, and the sentence names the holder; so is an
/// unreachable server while data may wait in the cache. A plain open() by somebody is not seen.
Result<void> detach(std::uint32_t index, bool force, Kernel& kernel, const Sysfs& sysfs,
                    const std::string& runtime_directory);

/// Detaches when the last user closes the device; at once when nobody has it open. Netlink only,
/// and not across a dead connection.
Result<void> detach_when_closed(std::uint32_t index, Kernel& kernel, const Sysfs& sysfs,
                                const std::string& runtime_directory);

/// Kind::busy with the first user's name when the device is in use, as far as /proc and /sys tell.
Result<void> check_unused(std::uint32_t index, const Sysfs& sysfs);

}  // namespace nbd
