// SPDX-License-Identifier: MIT
// A kernel's end of a generic-netlink socket for tests: libnl's send and receive are replaced.
#pragma once

#include "netlink/channel.h"

#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <linux/genetlink.h>
#include <linux/nbd-netlink.h>
#include <netlink/attr.h>
#include <netlink/errno.h>
#include <netlink/genl/genl.h>
#include <netlink/handlers.h>
#include <netlink/msg.h>
#include <netlink/netlink.h>
#include <netlink/socket.h>
#include <string>
#include <vector>

namespace nbd {

inline constexpr std::uint16_t fake_family = 0x21;
inline constexpr std::uint32_t fake_group = 9;

using Datagram = std::string;

inline Datagram bytes_of(nl_msg* message) {
    const nlmsghdr* const header = nlmsg_hdr(message);
    return Datagram(reinterpret_cast<const char*>(header), header->nlmsg_len);
}

/// A data message of the family, filled by `fill`.
inline Datagram data_message(std::uint32_t sequence, std::uint8_t command,
                             const std::function<void(nl_msg*)>& fill, int family = fake_family) {
    const MessagePtr message(nlmsg_alloc());
    genlmsg_put(message.get(), 0, sequence, family, 0, 0, command, 1);
    fill(message.get());
    return bytes_of(message.get());
}

inline Datagram index_message(std::uint32_t sequence, std::uint8_t command, std::uint32_t index) {
    return data_message(sequence, command,
                        [index](nl_msg* message) { nla_put_u32(message, NBD_ATTR_INDEX, index); });
}

/// An acknowledgement (`error` 0) or refusal, with the kernel's text if there is one; `echoed`
/// bytes of the request follow the header as they do when the acknowledgement is not capped.
inline Datagram verdict_message(std::uint32_t sequence, int error, const std::string& text = {},
                                std::size_t echoed = 0) {
    const MessagePtr message(nlmsg_alloc());
    int flags = echoed == 0 ? NLM_F_CAPPED : 0;
    if (!text.empty()) flags |= NLM_F_ACK_TLVS;
    nlmsg_put(message.get(), 0, sequence, NLMSG_ERROR, 0, flags);
    nlmsgerr verdict = {};
    verdict.error = -error;
    verdict.msg.nlmsg_len = static_cast<std::uint32_t>(NLMSG_HDRLEN + echoed);
    nlmsg_append(message.get(), &verdict, sizeof verdict, NLMSG_ALIGNTO);
    std::string echo(echoed, '\x5a');
    if (echoed > 0) nlmsg_append(message.get(), echo.data(), echoed, NLMSG_ALIGNTO);
    if (!text.empty()) nla_put_string(message.get(), NLMSGERR_ATTR_MSG, text.c_str());
    return bytes_of(message.get());
}

class FakeNetlink {
public:
    FakeNetlink() { current() = this; }
    ~FakeNetlink() { current() = nullptr; }
    FakeNetlink(const FakeNetlink&) = delete;
    FakeNetlink& operator=(const FakeNetlink&) = delete;

    struct Incoming {
        Datagram datagram;
        std::uint32_t sender = 0;
        int failure = 0;  ///< libnl's error instead of a datagram
    };
    /// Puts what the kernel says to a request into `queue`.
    using Answer = std::function<void(FakeNetlink&, std::uint32_t sequence)>;

    bool has_family = true;
    bool has_group = true;
    bool has_id = true;
    std::deque<Answer> answers;  ///< one per request other than GETFAMILY
    std::deque<Incoming> queue;
    std::vector<Datagram> sent;  ///< requests other than GETFAMILY

    void say(Datagram datagram) { queue.push_back({std::move(datagram)}); }

    SocketPtr socket() {
        nl_cb* const callbacks = nl_cb_alloc(NL_CB_DEFAULT);
        nl_cb_overwrite_send(callbacks, send);
        nl_cb_overwrite_recv(callbacks, receive);
        SocketPtr socket(nl_socket_alloc_cb(callbacks));
        nl_cb_put(callbacks);
        return socket;
    }

    Result<Channel> channel() {
        return Channel::over(socket(), NBD_GENL_FAMILY_NAME, NBD_GENL_MCAST_GROUP_NAME);
    }

private:
    static FakeNetlink*& current() {
        static FakeNetlink* instance = nullptr;
        return instance;
    }

    void tell_family(std::uint32_t sequence) {
        if (!has_family) return say(verdict_message(sequence, ENOENT));
        const auto fill = [this](nl_msg* message) {
            nla_put_string(message, CTRL_ATTR_FAMILY_NAME, NBD_GENL_FAMILY_NAME);
            if (has_id) nla_put_u16(message, CTRL_ATTR_FAMILY_ID, fake_family);
            nlattr* const groups = nla_nest_start(message, CTRL_ATTR_MCAST_GROUPS);
            for (const char* name : {"another", NBD_GENL_MCAST_GROUP_NAME}) {
                if (!has_group && std::strcmp(name, NBD_GENL_MCAST_GROUP_NAME) == 0) continue;
                nlattr* const group = nla_nest_start(message, 1);
                nla_put_string(message, CTRL_ATTR_MCAST_GRP_NAME, name);
                nla_put_u32(message, CTRL_ATTR_MCAST_GRP_ID,
                            std::strcmp(name, "another") == 0 ? 3 : fake_group);
                nla_nest_end(message, group);
            }
            nla_nest_end(message, groups);
        };
        say(data_message(sequence, CTRL_CMD_NEWFAMILY, fill, GENL_ID_CTRL));
        say(verdict_message(sequence, 0));
    }

    static int send(nl_sock*, nl_msg* message) {
        FakeNetlink& fake = *current();
        const nlmsghdr* const header = nlmsg_hdr(message);
        if (header->nlmsg_type == GENL_ID_CTRL) {
            fake.tell_family(header->nlmsg_seq);
        } else {
            fake.sent.push_back(bytes_of(message));
            if (!fake.answers.empty()) {
                const Answer answer = std::move(fake.answers.front());
                fake.answers.pop_front();
                answer(fake, header->nlmsg_seq);
            }
        }
        return static_cast<int>(header->nlmsg_len);
    }

    static int receive(nl_sock*, sockaddr_nl* sender, unsigned char** buffer, ucred**) {
        FakeNetlink& fake = *current();
        if (fake.queue.empty()) return -NLE_AGAIN;
        const Incoming next = std::move(fake.queue.front());
        fake.queue.pop_front();
        if (next.failure != 0) return -next.failure;
        *sender = {};
        sender->nl_family = AF_NETLINK;
        sender->nl_pid = next.sender;
        *buffer = static_cast<unsigned char*>(std::malloc(next.datagram.size()));
        std::memcpy(*buffer, next.datagram.data(), next.datagram.size());
        return static_cast<int>(next.datagram.size());
    }
};

}  // namespace nbd
