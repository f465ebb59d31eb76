// SPDX-License-Identifier: MIT
// The nbd driver's generic-netlink messages: requests encoded, answers decoded, refusals worded.
#pragma once

#include "netlink/kernel.h"

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string_view>

struct nl_msg;

namespace nbd {

struct FreeMessage {
    void operator()(nl_msg* message) const;
};
using MessagePtr = std::unique_ptr<nl_msg, FreeMessage>;

/// Longest backend identifier that is sent; the kernel shows it in a sysfs page.
inline constexpr std::size_t max_backend = 2048;

/// What a connect must hold whichever interface carries it: at least one socket, none of them
/// twice, and several only if the server allows it. The driver notices some of this only after it
/// has shut the sockets down, and a socket given twice never.
Result<void> check_connect(const ConnectRequest& request);

/// NBD_CMD_CONNECT for the numeric `family`; timeouts are cut to max_timeout and
/// max_dead_conn_timeout. Without `zero_timeout` a timeout of 0 is left out: before Linux 5.4 the
/// driver takes it as "at once".
Result<MessagePtr> connect_message(int family, const ConnectRequest& request, bool zero_timeout);
/// NBD_CMD_RECONFIGURE with what the request holds and nothing else.
Result<MessagePtr> reconfigure_message(int family, const ReconfigureRequest& request,
                                       bool zero_timeout);
/// NBD_CMD_DISCONNECT.
Result<MessagePtr> disconnect_message(int family, std::uint32_t index);

/// The device index in the driver's message `command` (NBD_CMD_CONNECT, NBD_CMD_LINK_DEAD); nothing
/// if the message is another one or malformed.
std::optional<std::uint32_t> decode_index(const nl_msg& message, int command);

enum class Command { connect, reconfigure, disconnect };

/// The Error for the errno `error` with which the driver refused `command`, the same for netlink
/// and ioctl. `explanation` is what the kernel said beyond the number, may be empty.
Error refusal(Command command, std::optional<std::uint32_t> index, int error,
              std::string_view explanation);

}  // namespace nbd
