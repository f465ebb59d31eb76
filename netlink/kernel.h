// SPDX-License-Identifier: MIT
// The kernel's edge: what the client asks of the nbd driver, whichever interface carries it.
#pragma once

#include "client/base/fd.h"
#include "client/base/result.h"

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace nbd {

/// NBD_CMD_CONNECT. The driver takes its own reference to each socket; ours stay ours.
struct ConnectRequest {
    std::optional<std::uint32_t> index = std::nullopt;  ///< nothing: the kernel chooses
    std::uint64_t size = 0;                             ///< bytes
    std::uint64_t block_size = 512;
    std::chrono::seconds timeout{0};  ///< per request; 0: never (one socket), 30 s (several)
    std::chrono::seconds dead_conn_timeout{0};  ///< how long requests wait for a new socket
    std::uint16_t server_flags = 0;             ///< transmission flags as negotiated
    std::string backend = {};  ///< backend identifier; netlink only, kernel 5.14 and later
    std::vector<int> sockets = {};
};

/// NBD_CMD_RECONFIGURE. Never put a size into a request that carries sockets: since 6.12 the driver
/// freezes the queue for it first, which cannot drain while a connection is dead.
struct ReconfigureRequest {
    std::uint32_t index = 0;
    std::string backend = {};  ///< must equal the one given at connect, empty if there was none
    std::vector<int> sockets = {};
    std::optional<std::uint64_t> size = std::nullopt;
    std::optional<std::chrono::seconds> timeout = std::nullopt;
    std::optional<std::chrono::seconds> dead_conn_timeout = std::nullopt;
    std::optional<bool> disconnect_on_close = std::nullopt;
};

/// NBD_CMD_LINK_DEAD events: a hint that a connection of some device died. Lossy by nature.
class LinkEvents {
public:
    virtual ~LinkEvents() = default;
    /// Readable when events wait.
    virtual int fd() const = 0;
    struct Batch {
        std::vector<std::uint32_t> indexes;
        bool overrun = false;  ///< events were lost: look at every device
    };
    /// Takes everything that waits, without blocking.
    virtual Batch drain() = 0;
};

/// The driver. Calls block until the kernel has answered and cannot be interrupted; a caller that
/// must not hang makes them from a thread it can do without. Errors: denied, busy, absent (no such
/// device), unsupported (no driver), refused (the driver says EINVAL; the kernel log knows why).
class Kernel {
public:
    virtual ~Kernel() = default;

    /// Configures a device and returns its index.
    virtual Result<std::uint32_t> connect(const ConnectRequest& request) = 0;
    virtual Result<void> reconfigure(const ReconfigureRequest& request) = 0;
    /// Ends a configuration; a device that is free already is success.
    virtual Result<void> disconnect(std::uint32_t index) = 0;

    virtual Result<std::unique_ptr<LinkEvents>> link_events() = 0;

    /// False for the ioctl interface: dead connections cannot be replaced, only the whole device.
    virtual bool can_reconfigure() const = 0;

    /// The ioctl interface serves a device from inside this process: readable once it has ended.
    /// -1 where the device lives by itself.
    virtual int ended_fd() const { return -1; }
};

/// What the kernel is able to take (drivers/block/nbd.c, jiffies arithmetic on 32-bit machines).
inline constexpr std::chrono::seconds max_timeout{86400};
inline constexpr std::chrono::seconds max_dead_conn_timeout{2'000'000};

}  // namespace nbd
