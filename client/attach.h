// SPDX-License-Identifier: MIT
// Attaches an export: negotiates, hands the sockets to the kernel, waits until the device is
// usable.
#pragma once

#include "client/runtime.h"
#include "client/session.h"
#include "netlink/kernel.h"
#include "netlink/sysfs.h"

#include <chrono>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace nbd {

/// Request timeout of a device that reconnects when --io-timeout does not say: requests that were
/// in flight on a dead connection come back only when their own timer fires, so it is short. The
/// watchdog gives a server that answers more slowly more time.
inline constexpr std::chrono::seconds quick_timeout{4};
/// Request timeout for several connections where a slow answer is better than an ended connection;
/// the driver takes "none" for the same. With one connection none it is.
inline constexpr std::chrono::seconds patient_timeout{30};

/// The export agreed on, connections for it, and what the kernel will be asked for.
struct Plan {
    std::vector<Connection> connections;
    ExportInfo agreed;
    ConnectRequest request;
    std::vector<std::string> warnings;
};

/// What is attached, with our own descriptors of the sockets the kernel uses: to watch them and to
/// shut them down, never to read or write.
struct Attachment {
    std::optional<RuntimeLock> lock;  ///< held by a process that stays
    RuntimeStatus status;
    std::vector<Connection> connections;
    std::uint64_t size = 0;  ///< the device's, in bytes
};

/// Dials and negotiates without touching the kernel. `dialer` has been resolved.
Result<Plan> negotiate(const AttachRequest& request, Dialer& dialer, const Deadline& deadline);

/// The same with the patience of --connect-for: rounds of --connect-timeout until one succeeds. A
/// failed round that will be followed by another is told to `on_retry`.
Result<Plan> negotiate_patiently(const AttachRequest& request, Dialer& dialer, int cancel_fd,
                                 const std::function<void(const Error&)>& on_retry);

/// What --dry-run prints.
std::string describe(const ConnectRequest& request);

/// An attached device that already is what `request` asks for (--idempotent), by backend
/// identifier.
std::optional<std::uint32_t> find_same(const AttachRequest& request, const Sysfs& sysfs);

/// What becomes of a device once it is attached.
struct Watched {
    bool stays = false;  ///< this process stays with it: take its lock
    Settings settings;   ///< remembered in its status for reattach
    std::string runtime_directory{default_runtime_directory};
};

/// Hands over and returns when the device is usable; on any failure the device is free again.
Result<Attachment> hand_over(const AttachRequest& request, Plan plan, Kernel& kernel,
                             const Sysfs& sysfs, const Watched& watched, int cancel_fd);

/// The kernel's request timeout for a device whose server is known to answer.
std::chrono::seconds choose_timeout(const AttachRequest& request, unsigned connections);
/// How long the driver is to keep requests waiting for a new connection.
std::chrono::seconds choose_dead_conn_timeout(const AttachRequest& request);

}  // namespace nbd
