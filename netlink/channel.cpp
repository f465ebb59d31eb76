// SPDX-License-Identifier: MIT
// A generic-netlink socket bound to one family: one request, its answer, and its own verdict.
#include "netlink/channel.h"

#include "client/base/text.h"

#include <array>
#include <cerrno>
#include <linux/genetlink.h>
#include <linux/netlink.h>
#include <netlink/attr.h>
#include <netlink/errno.h>
#include <netlink/genl/genl.h>
#include <netlink/msg.h>
#include <netlink/netlink.h>
#include <netlink/socket.h>
#include <sys/socket.h>
#include <sys/time.h>

namespace nbd {

namespace {

constexpr timeval answer_time = {5, 0};
/// More strays than this before the verdict, and something is wrong.
constexpr int max_datagrams = 1000;

Error netlink_error(const char* act, int libnl_error) {
    return {Kind::internal, std::string("cannot ") + act + ": " + nl_geterror(libnl_error)};
}

/// What one exchange waits for and has got so far.
struct Pending {
    std::uint32_t sequence;
    Verdict verdict = {};
    bool concluded = false;
};

std::string printable_string(const nlattr* attribute) {
    const std::string_view text(static_cast<const char*>(nla_data(attribute)),
                                static_cast<std::size_t>(nla_len(attribute)));
    return printable(text.substr(0, text.find('\0')));
}

/// The text of an extended acknowledgement (NLMSGERR_ATTR_MSG).
std::string explanation(nlmsghdr* header, const nlmsgerr& error) {
    if ((header->nlmsg_flags & NLM_F_ACK_TLVS) == 0) return {};
    // Attributes follow the copy of our request; a capped copy is its header alone.
    std::size_t skip = sizeof(nlmsgerr);
    if ((header->nlmsg_flags & NLM_F_CAPPED) == 0 && error.msg.nlmsg_len > NLMSG_HDRLEN)
        skip += NLMSG_ALIGN(error.msg.nlmsg_len) - NLMSG_HDRLEN;
    if (skip >= static_cast<std::size_t>(nlmsg_datalen(header))) return {};
    const nlattr* const text = nlmsg_find_attr(header, static_cast<int>(skip), NLMSGERR_ATTR_MSG);
    return text != nullptr ? printable_string(text) : std::string();
}

void conclude(Pending& pending, nlmsghdr* header) {
    pending.concluded = true;
    if (nlmsg_datalen(header) < static_cast<int>(sizeof(nlmsgerr))) {
        pending.verdict.error = EBADMSG;
        return;
    }
    const auto* const error = static_cast<const nlmsgerr*>(nlmsg_data(header));
    pending.verdict.error = -error->error;
    pending.verdict.explanation = explanation(header, *error);
}

/// libnl's raw callback sees each message before libnl judges it, so nothing else of libnl's
/// sequence and acknowledgement handling, which is off by one answer after a CONNECT, runs.
int take_message(nl_msg* message, void* argument) {
    Pending& pending = *static_cast<Pending*>(argument);
    nlmsghdr* const header = nlmsg_hdr(message);
    if (nlmsg_get_src(message)->nl_pid != 0 || header->nlmsg_seq != pending.sequence)
        return NL_SKIP;
    if (header->nlmsg_type == NLMSG_ERROR) {
        conclude(pending, header);
    } else if (header->nlmsg_type >= NLMSG_MIN_TYPE) {
        nlmsg_get(message);
        pending.verdict.answer.reset(message);
    }
    return NL_SKIP;
}

/// The id of the multicast group called `name` in CTRL_ATTR_MCAST_GROUPS, or 0.
int find_group(nlattr* groups, std::string_view name) {
    int left = nla_len(groups);
    for (auto* entry = static_cast<nlattr*>(nla_data(groups)); nla_ok(entry, left);
         entry = nla_next(entry, &left)) {
        std::array<nla_policy, CTRL_ATTR_MCAST_GRP_MAX + 1> policy = {};
        policy[CTRL_ATTR_MCAST_GRP_NAME].type = NLA_STRING;
        policy[CTRL_ATTR_MCAST_GRP_ID].type = NLA_U32;
        std::array<nlattr*, CTRL_ATTR_MCAST_GRP_MAX + 1> parsed = {};
        if (nla_parse_nested(parsed.data(), CTRL_ATTR_MCAST_GRP_MAX, entry, policy.data()) < 0)
            continue;
        const nlattr* const found = parsed[CTRL_ATTR_MCAST_GRP_NAME];
        const nlattr* const id = parsed[CTRL_ATTR_MCAST_GRP_ID];
        if (found != nullptr && id != nullptr && printable_string(found) == name)
            return static_cast<int>(nla_get_u32(id));
    }
    return 0;
}

}  // namespace

void FreeSocket::operator()(nl_sock* socket) const {
    nl_socket_free(socket);
}

Result<SocketPtr> open_socket() {
    SocketPtr socket(nl_socket_alloc());
    if (!socket) return Error{Kind::internal, "cannot open a netlink socket: out of memory"};
    if (const int error = genl_connect(socket.get()); error < 0) {
        Error result = netlink_error("open a netlink socket", error);
        if (error == -NLE_AF_NOSUPPORT || error == -NLE_PROTO_MISMATCH)
            result.kind = Kind::unsupported;
        return result;
    }
    nl_socket_enable_msg_peek(socket.get());
    const int fd = nl_socket_get_fd(socket.get());
    const int on = 1;
    // Old kernels lack these two; then there is just no text.
    (void)::setsockopt(fd, SOL_NETLINK, NETLINK_EXT_ACK, &on, sizeof on);
    (void)::setsockopt(fd, SOL_NETLINK, NETLINK_CAP_ACK, &on, sizeof on);
    (void)::setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &answer_time, sizeof answer_time);
    return socket;
}

Result<Channel> Channel::over(SocketPtr socket, const char* family, const char* group) {
    Channel channel(std::move(socket));
    TRY(channel.resolve(family, group));
    return channel;
}

Result<void> Channel::resolve(const char* family, const char* group) {
    const MessagePtr request(nlmsg_alloc());
    if (!request ||
        genlmsg_put(request.get(), NL_AUTO_PORT, NL_AUTO_SEQ, GENL_ID_CTRL, 0,
                    NLM_F_REQUEST | NLM_F_ACK, CTRL_CMD_GETFAMILY, 1) == nullptr ||
        nla_put_string(request.get(), CTRL_ATTR_FAMILY_NAME, family) != 0)
        return Error{Kind::internal, "cannot build a netlink message: out of memory"};
    const Verdict verdict = TRY(exchange(*request));
    const std::string act = "look up the netlink family " + quoted(family);
    if (verdict.error == ENOENT)
        return Error{Kind::unsupported, "cannot " + act + ": the kernel has none of that name",
                     "modprobe nbd, or the kernel lacks it"};
    if (verdict.error != 0) return errno_error(Kind::internal, act, verdict.error);

    std::array<nla_policy, CTRL_ATTR_MAX + 1> policy = {};
    policy[CTRL_ATTR_FAMILY_ID].type = NLA_U16;
    policy[CTRL_ATTR_MCAST_GROUPS].type = NLA_NESTED;
    std::array<nlattr*, CTRL_ATTR_MAX + 1> found = {};
    if (!verdict.answer || !genlmsg_valid_hdr(nlmsg_hdr(verdict.answer.get()), 0) ||
        genlmsg_parse(nlmsg_hdr(verdict.answer.get()), 0, found.data(), CTRL_ATTR_MAX,
                      policy.data()) < 0 ||
        found[CTRL_ATTR_FAMILY_ID] == nullptr)
        return Error{Kind::internal, "cannot " + act + ": the kernel's answer is malformed"};
    family_ = nla_get_u16(found[CTRL_ATTR_FAMILY_ID]);
    if (found[CTRL_ATTR_MCAST_GROUPS] != nullptr)
        group_ = find_group(found[CTRL_ATTR_MCAST_GROUPS], group);
    return {};
}

Result<Verdict> Channel::exchange(nl_msg& request) {
    nl_complete_msg(socket_.get(), &request);
    int error = 0;
    do error = nl_send(socket_.get(), &request);
    while (error == -NLE_INTR);
    if (error < 0) return netlink_error("send to the kernel", error);

    Pending pending{nlmsg_hdr(&request)->nlmsg_seq};
    nl_socket_modify_cb(socket_.get(), NL_CB_MSG_IN, NL_CB_CUSTOM, take_message, &pending);
    for (int datagrams = 0; datagrams < max_datagrams && !pending.concluded; ++datagrams) {
        error = nl_recvmsgs_default(socket_.get());
        if (error < 0 && error != -NLE_INTR && !pending.concluded)
            return netlink_error("receive the kernel's answer", error);
    }
    if (!pending.concluded)
        return Error{Kind::internal, "cannot receive the kernel's answer: it does not come"};
    return std::move(pending.verdict);
}

}  // namespace nbd
