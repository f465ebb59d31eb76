// SPDX-License-Identifier: MIT
// A generic-netlink socket bound to one family: one request, its answer, and its own verdict.
#pragma once

#include "netlink/nbd_messages.h"

#include <memory>
#include <string>

struct nl_sock;

namespace nbd {

struct FreeSocket {
    void operator()(nl_sock* socket) const;
};
using SocketPtr = std::unique_ptr<nl_sock, FreeSocket>;

/// A connected generic-netlink socket, close-on-exec; its reads give up after some seconds, since
/// the kernel has answered before the send returns.
Result<SocketPtr> open_socket();

/// What the kernel said to one request.
struct Verdict {
    int error = 0;            ///< errno as a positive number, 0: done
    std::string explanation;  ///< the extended acknowledgement's text, printable, mostly empty
    MessagePtr answer;        ///< the data that came before the verdict, if any
};

class Channel {
public:
    /// Looks the family and its multicast group up; Kind::unsupported when the kernel has no such
    /// family. `socket` is open_socket()'s, or one whose send and receive have been replaced.
    static Result<Channel> over(SocketPtr socket, const char* family, const char* group);

    int family() const { return family_; }
    /// 0 when the family has no such group.
    int group() const { return group_; }

    /// Sends the request and returns once its acknowledgement has come. Anything else in the
    /// queue, such as the rest of an earlier exchange, is dropped. Fails only where netlink itself
    /// does: the kernel's refusal is a Verdict.
    Result<Verdict> exchange(nl_msg& request);

private:
    explicit Channel(SocketPtr socket) : socket_(std::move(socket)) {}
    Result<void> resolve(const char* family, const char* group);

    SocketPtr socket_;
    int family_ = 0;
    int group_ = 0;
};

}  // namespace nbd
