// SPDX-License-Identifier: MIT
// Tells the kernel the export's new size.
#pragma once

#include "netlink/kernel.h"
#include "netlink/sysfs.h"

#include <cstdint>
#include <string>

namespace nbd {

/// Asks the server for the size and gives it to the kernel in a message of its own, only while
/// every connection lives. Shrinking needs `force`. Returns the size in bytes, changed or not.
Result<std::uint64_t> resize(std::uint32_t index, bool force, Kernel& kernel, const Sysfs& sysfs,
                             const std::string& runtime_directory);

}  // namespace nbd
