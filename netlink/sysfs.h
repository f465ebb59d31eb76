// SPDX-License-Identifier: MIT
// What the kernel says of nbd devices in /sys and /proc, and who uses them.
#pragma once

#include "client/base/fd.h"
#include "client/base/result.h"

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <sys/types.h>
#include <vector>

namespace nbd {

/// One nbd disk. `configured` is the presence of the pid attribute: the netlink STATUS answer says
/// "connected" for a device that is merely open.
struct DiskState {
    std::uint32_t index = 0;
    bool configured = false;
    pid_t pid = 0;                       ///< the task that configured it; may be long gone
    std::optional<std::string> backend;  ///< nothing: kernel before 5.14, or ioctl
    std::uint64_t size = 0;              ///< bytes
    bool read_only = false;
    std::vector<std::string> partitions;  ///< "nbd0p1", in numerical order
};

/// Somebody who uses a disk or one of its partitions.
struct DiskUser {
    enum class How { mounted, swap, held } how;
    std::string device;  ///< "nbd0p1"
    std::string where;   ///< mount point, or the holder ("dm-0"), empty for swap
};

class Sysfs {
public:
    /// `root` is "/" except in a sandbox.
    explicit Sysfs(std::string root = "/");

    /// Indexes of all nbd disks that exist, ascending.
    std::vector<std::uint32_t> indexes() const;
    /// Nothing when there is no such disk. Never touches queue/: since 6.12 that can block while a
    /// connection is dead.
    std::optional<DiskState> read(std::uint32_t index) const;
    /// Where the disk can be opened: device_path() below the root.
    std::string node(std::uint32_t index) const;
    /// Logical block size; reads queue/, so only while all connections live.
    std::optional<std::uint64_t> block_size(std::uint32_t index) const;
    /// A number of queue/, with the same caution.
    std::optional<std::uint64_t> queue_value(std::uint32_t index, std::string_view attribute) const;
    /// Mounts (also of process 1), swap areas, and holders (device mapper, md) of disk and
    /// partitions.
    std::vector<DiskUser> users(std::uint32_t index) const;
    /// Requests the driver has sent and not been answered.
    std::optional<std::uint64_t> inflight(std::uint32_t index) const;
    /// Writes one queue/ attribute, for instance ("max_sectors_kb", 64). Right after connect only.
    Result<void> write_queue(std::uint32_t index, std::string_view attribute,
                             std::uint64_t value) const;
    /// The same attribute open for writing, for changes that must follow each other at once.
    Result<Fd> open_queue(std::uint32_t index, std::string_view attribute) const;
    /// The I/O scheduler in use ("none"); with the same caution.
    std::optional<std::string> scheduler(std::uint32_t index) const;
    /// Right after connect only; the kernel loads a scheduler it does not have yet.
    Result<void> set_scheduler(std::uint32_t index, std::string_view name) const;
    /// The nbd module's max_part, if the module is there: 0 means no partitions.
    std::optional<std::uint64_t> max_part() const;
    /// True if the driver is loaded or built in.
    bool has_driver() const;

private:
    Result<void> write_attribute(std::uint32_t index, std::string_view attribute,
                                 std::string_view text) const;
    std::string root_;
};

/// "nbd3", "/dev/nbd3", "3", also a partition ("/dev/nbd3p1") -> 3; usage error otherwise.
Result<std::uint32_t> parse_device(std::string_view text);
/// "nbd3"
std::string device_name(std::uint32_t index);
/// "/dev/nbd3"
std::string device_path(std::uint32_t index);

}  // namespace nbd
