// SPDX-License-Identifier: MIT
// The status file of a device under /run/nbd: what the kernel cannot tell, believed with a lock.
#pragma once

#include "client/base/fd.h"
#include "client/protocol/handshake.h"
#include "client/request.h"
#include "netlink/sysfs.h"

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <sys/types.h>
#include <vector>

namespace nbd {

enum class LinkState { attached, degraded, reconnecting, failing };
std::string_view to_string(LinkState state);

/// What whoever attached (and whoever watches) a device knows about it.
struct RuntimeStatus {
    std::uint32_t index = 0;
    std::string backend;  ///< as in the kernel; a file whose backend differs is of an earlier life
    std::string uri;      ///< canonical, of the target
    Settings settings;    ///< how it was attached, for reattach
    ExportInfo agreed;    ///< the first handshake: what every later one is compared with
    std::uint64_t block_size = 512;
    unsigned connections = 1;
    std::chrono::seconds timeout{0};            ///< the kernel's request timeout
    std::chrono::seconds dead_conn_timeout{0};  ///< the kernel's patience, as sent
    std::chrono::system_clock::time_point attached_since{};
    bool tls = false;
    std::string offload;  ///< who protects the connections ("ktls", "relay"); empty: nobody

    // Kept true by the watchdog only.
    pid_t pid = 0;
    LinkState state = LinkState::attached;
    std::chrono::system_clock::time_point state_since{};
    unsigned live_connections = 1;
    std::uint64_t reconnects = 0;
    std::string server;      ///< address text of the newest connection
    std::string last_error;  ///< why the latest dial failed, empty when none did
};

/// The watchdog's lock on a device; a second watchdog is refused. The kernel drops it when the last
/// descriptor of the open file goes: with its holder, or with a child forked without exec that
/// outlives it, so such children must be short-lived.
class RuntimeLock {
public:
    /// Makes the directory when missing. To be taken in the process that will keep it (after the
    /// last fork): its pid is what others are told. Kind::busy when another process holds it; the
    /// sentence names that pid.
    static Result<RuntimeLock> take(const std::string& directory, std::uint32_t index);

private:
    explicit RuntimeLock(Fd file) : file_(std::move(file)) {}
    Fd file_;
};

inline constexpr const char* default_runtime_directory = "/run/nbd";

/// Replaces the status file by rename; needs the directory (made when missing) to be writable.
Result<void> publish_status(const std::string& directory, const RuntimeStatus& status);

/// Whether the disk is configured, and by the attachment the status is of: an index is used again.
/// A kernel before 5.14 has no identifier to compare.
bool is_attachment(const std::optional<DiskState>& disk, const RuntimeStatus& status);

/// An identifier of our making is the URI, '#' and a fresh id; a canonical URI has no '#'.
std::string_view without_fresh_id(std::string_view backend);

struct StoredStatus {
    RuntimeStatus status;
    bool watched = false;  ///< the writer's lock is held: pid, state and counters are of now
};
/// Nothing when there is no readable, complete file of ours for the index.
std::optional<StoredStatus> read_status(const std::string& directory, std::uint32_t index);
void remove_status(const std::string& directory, std::uint32_t index);

}  // namespace nbd
