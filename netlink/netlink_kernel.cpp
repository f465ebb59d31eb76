// SPDX-License-Identifier: MIT
// The driver by generic netlink.
#include "netlink/netlink_kernel.h"

#include "client/base/text.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <fcntl.h>
#include <linux/nbd-netlink.h>
#include <netlink/errno.h>
#include <netlink/msg.h>
#include <netlink/netlink.h>
#include <netlink/socket.h>
#include <sys/socket.h>
#include <sys/utsname.h>
#include <unistd.h>

namespace nbd {

namespace {

/// The kernel's log from now on: the driver explains a refusal only there.
class DriverLog {
public:
    DriverLog() : kmsg_(::open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC)) {
        if (kmsg_) (void)::lseek(kmsg_.get(), 0, SEEK_END);
    }

    /// The last lines of nbd since construction; empty if there are none or they are not ours to
    /// read.
    std::string lines() const {
        constexpr std::size_t max_lines = 2;
        std::vector<std::string> lines;
        for (int records = 0; kmsg_ && records < 100; ++records) {
            std::array<char, 8192> record;
            const ssize_t length = ::read(kmsg_.get(), record.data(), record.size());
            if (length < 0 && (errno == EPIPE || errno == EINTR)) continue;
            if (length <= 0) break;
            std::string_view line(record.data(), static_cast<std::size_t>(length));
            // "6,339,5140900,-;text\n KEY=value\n"
            line.remove_prefix(std::min(line.find(';'), line.size() - 1) + 1);
            line = line.substr(0, line.find('\n'));
            if (line.find("nbd") == line.npos) continue;
            if (lines.size() == max_lines) lines.erase(lines.begin());
            lines.push_back(printable(line, 160));
        }
        return join(lines, "; ");
    }

private:
    Fd kmsg_;
};

Error refusal(Command command, std::optional<std::uint32_t> index, const Verdict& verdict,
              const DriverLog& log) {
    std::string explanation = verdict.explanation;
    if (explanation.empty() && verdict.error == EINVAL) explanation = log.lines();
    return refusal(command, index, verdict.error, explanation);
}

/// Before Linux 5.4 a request timeout of 0 is not "never" but "at once"; nothing but the version
/// tells. To be deleted when no such kernel is left.
bool zero_timeout_means_never() {
    utsname system = {};
    if (::uname(&system) != 0) return true;
    const auto parts = split(system.release, '.');
    if (parts.size() < 2) return true;
    const auto digits = parts[1].substr(0, parts[1].find_first_not_of("0123456789"));
    const std::uint64_t major = parse_decimal(parts[0]).value_or(5);
    const std::uint64_t minor = parse_decimal(digits).value_or(4);
    return major > 5 || (major == 5 && minor >= 4);
}

int take_event(nl_msg* message, void* argument) {
    auto& batch = *static_cast<LinkEvents::Batch*>(argument);
    if (nlmsg_get_src(message)->nl_pid != 0) return NL_SKIP;
    if (const auto index = decode_index(*message, NBD_CMD_LINK_DEAD))
        batch.indexes.push_back(*index);
    return NL_SKIP;
}

class NetlinkLinkEvents final : public LinkEvents {
public:
    explicit NetlinkLinkEvents(SocketPtr socket) : socket_(std::move(socket)) {}

    int fd() const override { return nl_socket_get_fd(socket_.get()); }

    Batch drain() override {
        Batch batch;
        nl_socket_modify_cb(socket_.get(), NL_CB_MSG_IN, NL_CB_CUSTOM, take_event, &batch);
        // Bounded: whoever floods the group must not keep the caller here.
        constexpr int max_datagrams = 10'000;
        for (int datagrams = 0; datagrams < max_datagrams; ++datagrams) {
            const int error = nl_recvmsgs_default(socket_.get());
            if (error == -NLE_NOMEM)  // libnl's name for ENOBUFS
                batch.overrun = true;
            else if (error < 0 && error != -NLE_INTR)
                break;
        }
        return batch;
    }

private:
    SocketPtr socket_;
};

Result<SocketPtr> join_group(int group) {
    SocketPtr socket = TRY(open_socket());
    const int fd = nl_socket_get_fd(socket.get());
    const int buffer_size = 1 << 20;
    if (::setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &buffer_size, sizeof buffer_size) != 0)
        (void)::setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &buffer_size, sizeof buffer_size);
    nl_socket_disable_seq_check(socket.get());
    nl_socket_set_nonblocking(socket.get());
    if (const int error = nl_socket_add_membership(socket.get(), group); error < 0)
        return Error{Kind::internal,
                     std::string("cannot listen for nbd events: ") + nl_geterror(error)};
    return socket;
}

class NetlinkKernel final : public Kernel {
public:
    explicit NetlinkKernel(Channel channel)
        : channel_(std::move(channel)), zero_timeout_(zero_timeout_means_never()) {}

    Result<std::uint32_t> connect(const ConnectRequest& request) override {
        const DriverLog log;
        const auto message = TRY(connect_message(channel_.family(), request, zero_timeout_));
        const Verdict verdict = TRY(channel_.exchange(*message));
        if (verdict.error != 0) return refusal(Command::connect, request.index, verdict, log);
        const auto index =
            verdict.answer ? decode_index(*verdict.answer, NBD_CMD_CONNECT) : request.index;
        if (!index)
            return Error{Kind::internal,
                         "cannot attach an nbd device: the kernel does not say which it took"};
        return *index;
    }

    Result<void> reconfigure(const ReconfigureRequest& request) override {
        const DriverLog log;
        const auto message = TRY(reconfigure_message(channel_.family(), request, zero_timeout_));
        const Verdict verdict = TRY(channel_.exchange(*message));
        if (verdict.error != 0) return refusal(Command::reconfigure, request.index, verdict, log);
        return {};
    }

    Result<void> disconnect(std::uint32_t index) override {
        const DriverLog log;
        const auto message = TRY(disconnect_message(channel_.family(), index));
        const Verdict verdict = TRY(channel_.exchange(*message));
        if (verdict.error != 0) return refusal(Command::disconnect, index, verdict, log);
        return {};
    }

    Result<std::unique_ptr<LinkEvents>> link_events() override {
        if (channel_.group() == 0)
            return Error{Kind::unsupported,
                         "cannot listen for nbd events: the kernel has no such group"};
        return link_events_over(TRY(join_group(channel_.group())));
    }

    bool can_reconfigure() const override { return true; }

private:
    Channel channel_;
    bool zero_timeout_;
};

}  // namespace

Result<std::unique_ptr<Kernel>> open_netlink_kernel() {
    SocketPtr socket = TRY(open_socket());
    return netlink_kernel_over(
        TRY(Channel::over(std::move(socket), NBD_GENL_FAMILY_NAME, NBD_GENL_MCAST_GROUP_NAME)));
}

std::unique_ptr<Kernel> netlink_kernel_over(Channel channel) {
    return std::make_unique<NetlinkKernel>(std::move(channel));
}

std::unique_ptr<LinkEvents> link_events_over(SocketPtr socket) {
    return std::make_unique<NetlinkLinkEvents>(std::move(socket));
}

}  // namespace nbd
