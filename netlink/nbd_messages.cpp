// SPDX-License-Identifier: MIT
// The nbd driver's generic-netlink messages: requests encoded, answers decoded, refusals worded.
#include "netlink/nbd_messages.h"

#include "netlink/sysfs.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <linux/nbd-netlink.h>
#include <linux/nbd.h>
#include <netlink/attr.h>
#include <netlink/genl/genl.h>
#include <netlink/msg.h>
#include <string>
#include <utility>

namespace nbd {

namespace {

/// Collects attributes; a failed one poisons the message, which finish() reports once.
class Builder {
public:
    Builder(int family, std::uint8_t command, std::size_t payload)
        : message_(nlmsg_alloc_size(payload)) {
        good_ = message_ &&
                genlmsg_put(message_.get(), NL_AUTO_PORT, NL_AUTO_SEQ, family, 0,
                            NLM_F_REQUEST | NLM_F_ACK, command, NBD_GENL_VERSION) != nullptr;
    }

    Builder& u32(int type, std::uint32_t value) {
        good_ = good_ && nla_put_u32(message_.get(), type, value) == 0;
        return *this;
    }
    Builder& u64(int type, std::uint64_t value) {
        good_ = good_ && nla_put_u64(message_.get(), type, value) == 0;
        return *this;
    }
    Builder& seconds(int type, std::chrono::seconds value, std::chrono::seconds limit) {
        const auto sent = std::clamp(value, std::chrono::seconds(0), limit);
        return u64(type, static_cast<std::uint64_t>(sent.count()));
    }
    Builder& text(int type, const std::string& value) {
        good_ = good_ && nla_put_string(message_.get(), type, value.c_str()) == 0;
        return *this;
    }
    Builder& sockets(std::span<const int> sockets) {
        nest(NBD_ATTR_SOCKETS, [&] {
            for (const int socket : sockets)
                nest(NBD_SOCK_ITEM, [&] { u32(NBD_SOCK_FD, static_cast<std::uint32_t>(socket)); });
        });
        return *this;
    }
    Result<MessagePtr> finish() {
        if (!good_) return Error{Kind::internal, "cannot build a netlink message: out of memory"};
        return std::move(message_);
    }

private:
    template <typename Fill>
    void nest(int type, Fill fill) {
        nlattr* const start = good_ ? nla_nest_start(message_.get(), type) : nullptr;
        good_ = start != nullptr;
        fill();
        good_ = good_ && nla_nest_end(message_.get(), start) == 0;
    }

    MessagePtr message_;
    bool good_ = false;
};

/// Upper bound of what the attributes take: each socket is two headers and a number.
std::size_t payload_size(std::size_t sockets, std::size_t backend) {
    return 512 + sockets * 16 + backend;
}

Error invalid(std::string_view cause) {
    return {Kind::internal, "cannot build a netlink message: " + std::string(cause)};
}

Result<void> check_unique(std::span<const int> sockets) {
    std::vector<int> sorted(sockets.begin(), sockets.end());
    std::sort(sorted.begin(), sorted.end());
    if (std::adjacent_find(sorted.begin(), sorted.end()) != sorted.end())
        return invalid("the same socket is given twice");
    return {};
}

Result<void> check_backend(const std::string& backend) {
    if (backend.size() > max_backend)
        return Error{Kind::usage, "cannot use the identifier: it is longer than " +
                                      std::to_string(max_backend) + " bytes"};
    return {};
}

struct Refusal {
    int error;
    Kind kind;
    const char* cause;
    const char* hint = "";
};

constexpr const char* kernel_log_hint = "the kernel log (dmesg) has the driver's reason";

constexpr Refusal any_refusals[] = {
    {EPERM, Kind::denied, "this needs CAP_SYS_ADMIN in the initial user namespace",
     "run as root; `info` and `--dry-run` work without privileges"},
    {EACCES, Kind::denied, "permission denied",
     "run as root; `info` and `--dry-run` work without privileges"},
    {ENODEV, Kind::absent, "no such device"},
    {ENXIO, Kind::absent, "no such device"},
    {ENOENT, Kind::absent, "no such device"},
    {ENOTTY, Kind::refused, "it is not an nbd device"},
    {EBADF, Kind::internal, "a connection is not an open descriptor"},
    {ENOTSOCK, Kind::internal, "a connection is not a socket"},
    {EFBIG, Kind::refused, "it is too large for this kernel"},
    {ECONNRESET, Kind::unreachable, "the connection ended at once"},
    {ETIMEDOUT, Kind::unreachable, "the driver has not started it in time"},
};

constexpr Refusal connect_refusals[] = {
    {EBUSY, Kind::busy, "it is attached already, or something holds its node open",
     "`nbd-client list` shows what is attached"},
    {EEXIST, Kind::busy, "the device appeared in the meantime"},
    {EINVAL, Kind::refused, "the nbd driver refuses the request", kernel_log_hint},
};

constexpr Refusal reconfigure_refusals[] = {
    {EINVAL, Kind::refused,
     "the device is not attached, is being detached, or belongs to another identifier",
     kernel_log_hint},
};

constexpr Refusal disconnect_refusals[] = {
    {EINVAL, Kind::absent, "no such device"},
};

struct Wording {
    const char* act;
    std::span<const Refusal> refusals;
};

Wording wording(Command command) {
    switch (command) {
        case Command::connect:
            return {"attach", connect_refusals};
        case Command::reconfigure:
            return {"reconfigure", reconfigure_refusals};
        case Command::disconnect:
            break;
    }
    return {"detach", disconnect_refusals};
}

const Refusal* find_refusal(std::span<const Refusal> refusals, int error) {
    const auto found = std::find_if(refusals.begin(), refusals.end(),
                                    [error](const Refusal& row) { return row.error == error; });
    return found == refusals.end() ? nullptr : &*found;
}

}  // namespace

void FreeMessage::operator()(nl_msg* message) const {
    nlmsg_free(message);
}

Result<void> check_connect(const ConnectRequest& request) {
    if (request.sockets.empty()) return invalid("no socket is given");
    TRY(check_unique(request.sockets));
    TRY(check_backend(request.backend));
    if (request.sockets.size() > 1 && (request.server_flags & NBD_FLAG_CAN_MULTI_CONN) == 0)
        return Error{Kind::refused,
                     "cannot attach with several connections: the server does not allow them",
                     "ask for one connection"};
    return {};
}

Result<MessagePtr> connect_message(int family, const ConnectRequest& request, bool zero_timeout) {
    TRY(check_connect(request));
    Builder builder(family, NBD_CMD_CONNECT,
                    payload_size(request.sockets.size(), request.backend.size()));
    if (request.index) builder.u32(NBD_ATTR_INDEX, *request.index);
    builder.u64(NBD_ATTR_SIZE_BYTES, request.size);
    builder.u64(NBD_ATTR_BLOCK_SIZE_BYTES, request.block_size);
    // Never left to the driver: it would keep the timer of the device's last user.
    if (zero_timeout || request.timeout.count() > 0)
        builder.seconds(NBD_ATTR_TIMEOUT, request.timeout, max_timeout);
    builder.seconds(NBD_ATTR_DEAD_CONN_TIMEOUT, request.dead_conn_timeout, max_dead_conn_timeout);
    builder.u64(NBD_ATTR_SERVER_FLAGS, request.server_flags);
    builder.u64(NBD_ATTR_CLIENT_FLAGS, 0);
    if (!request.backend.empty()) builder.text(NBD_ATTR_BACKEND_IDENTIFIER, request.backend);
    builder.sockets(request.sockets);
    return builder.finish();
}

Result<MessagePtr> reconfigure_message(int family, const ReconfigureRequest& request,
                                       bool zero_timeout) {
    TRY(check_unique(request.sockets));
    TRY(check_backend(request.backend));
    if (request.size && !request.sockets.empty())
        return invalid("a new size must not travel with new sockets");
    Builder builder(family, NBD_CMD_RECONFIGURE,
                    payload_size(request.sockets.size(), request.backend.size()));
    builder.u32(NBD_ATTR_INDEX, request.index);
    if (!request.backend.empty()) builder.text(NBD_ATTR_BACKEND_IDENTIFIER, request.backend);
    if (request.size) builder.u64(NBD_ATTR_SIZE_BYTES, *request.size);
    if (request.timeout && (zero_timeout || request.timeout->count() > 0))
        builder.seconds(NBD_ATTR_TIMEOUT, *request.timeout, max_timeout);
    if (request.dead_conn_timeout)
        builder.seconds(NBD_ATTR_DEAD_CONN_TIMEOUT, *request.dead_conn_timeout,
                        max_dead_conn_timeout);
    if (request.disconnect_on_close)
        builder.u64(NBD_ATTR_CLIENT_FLAGS,
                    *request.disconnect_on_close ? NBD_CFLAG_DISCONNECT_ON_CLOSE : 0);
    if (!request.sockets.empty()) builder.sockets(request.sockets);
    return builder.finish();
}

Result<MessagePtr> disconnect_message(int family, std::uint32_t index) {
    return Builder(family, NBD_CMD_DISCONNECT, payload_size(0, 0))
        .u32(NBD_ATTR_INDEX, index)
        .finish();
}

std::optional<std::uint32_t> decode_index(const nl_msg& message, int command) {
    // libnl's accessors change nothing but take no const.
    nlmsghdr* const header = nlmsg_hdr(const_cast<nl_msg*>(&message));
    if (!genlmsg_valid_hdr(header, 0)) return std::nullopt;
    const auto* const generic = static_cast<const genlmsghdr*>(nlmsg_data(header));
    if (generic->cmd != command) return std::nullopt;
    std::array<nla_policy, NBD_ATTR_MAX + 1> policy = {};
    policy[NBD_ATTR_INDEX].type = NLA_U32;
    std::array<nlattr*, NBD_ATTR_MAX + 1> attributes = {};
    if (genlmsg_parse(header, 0, attributes.data(), NBD_ATTR_MAX, policy.data()) < 0)
        return std::nullopt;
    if (attributes[NBD_ATTR_INDEX] == nullptr) return std::nullopt;
    return nla_get_u32(attributes[NBD_ATTR_INDEX]);
}

Error refusal(Command command, std::optional<std::uint32_t> index, int error,
              std::string_view explanation) {
    const auto [act, refusals] = wording(command);
    const Refusal* row = find_refusal(refusals, error);
    if (row == nullptr) row = find_refusal(any_refusals, error);
    Error result = {row != nullptr ? row->kind : Kind::internal, "cannot "};
    result.what.append(act).append(" ");
    result.what += index ? device_path(*index) : "an nbd device";
    result.what += ": " + (row != nullptr ? std::string(row->cause) : errno_text(error));
    if (!explanation.empty()) result.what.append(" (").append(explanation).append(")");
    if (row != nullptr && (explanation.empty() || row->hint != kernel_log_hint))
        result.hint = row->hint;
    return result;
}

}  // namespace nbd
