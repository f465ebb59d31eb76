// SPDX-License-Identifier: MIT
// Gathers what is attached: the kernel's word first, the status files for what it cannot tell.
#pragma once

#include "client/runtime.h"
#include "netlink/sysfs.h"

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace nbd {

/// One attached device as `list` shows it; nothing = not known.
struct DeviceRow {
    std::uint32_t index = 0;
    std::uint64_t size = 0;
    std::optional<std::uint64_t> block_size;
    bool read_only = false;
    LinkState state = LinkState::attached;
    std::optional<std::chrono::system_clock::time_point> since;  ///< of the state
    std::optional<unsigned> connections;
    std::optional<unsigned> live_connections;  ///< only while watched
    std::optional<bool> tls;
    std::optional<std::string> offload;  ///< who protects the connections
    std::string id;                      ///< backend identifier as the kernel has it, empty: none
    std::optional<std::string> uri;
    std::optional<pid_t> pid;  ///< the watchdog, only if alive
    std::vector<std::string> mountpoints;
    std::vector<std::string> partitions;
    std::optional<std::uint64_t> reconnects;
    std::optional<std::string> server;
    /// Which clock runs: when I/O will begin to fail (reconnecting, finite reconnect-for).
    std::optional<std::chrono::system_clock::time_point> fails_at;
    std::optional<std::string> last_error;
};

/// Rows of all configured devices in index order.
std::vector<DeviceRow> attached_devices(const Sysfs& sysfs, const std::string& runtime_directory);

/// The devices a word of the command line means: a node, a name, a number, or the URI or backend
/// identifier of attached devices. Absent when it names an URI or id nobody has.
Result<std::vector<std::uint32_t>> find_devices(const Sysfs& sysfs,
                                                const std::string& runtime_directory,
                                                std::string_view word);

}  // namespace nbd
