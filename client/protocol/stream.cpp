// SPDX-License-Identifier: MIT
// The byte stream the handshake runs over, and its plain socket form.
#include "client/protocol/stream.h"

#include <cerrno>
#include <poll.h>
#include <sys/socket.h>

namespace nbd {

namespace {

/// What to do after a socket call moved no byte: nothing when the socket is worth another try.
Result<void> after_failure(int fd, short events, int error, const Deadline& deadline) {
    if (error == EINTR) return {};
    if (error == EAGAIN || error == EWOULDBLOCK) return wait_for(fd, events, deadline);
    if (error == ECONNRESET || error == EPIPE)
        return Error{Kind::protocol, "the connection was closed by the server"};
    return Error{Kind::unreachable, errno_text(error)};
}

}  // namespace

Result<void> SocketStream::read_exactly(std::span<std::byte> buffer, const Deadline& deadline) {
    while (!buffer.empty()) {
        const ssize_t count = ::recv(fd_, buffer.data(), buffer.size(), MSG_DONTWAIT);
        if (count == 0) return Error{Kind::protocol, "the connection was closed by the server"};
        if (count < 0)
            TRY(after_failure(fd_, POLLIN, errno, deadline));
        else
            buffer = buffer.subspan(static_cast<std::size_t>(count));
    }
    return {};
}

Result<void> SocketStream::write_all(std::span<const std::byte> bytes, const Deadline& deadline) {
    while (!bytes.empty()) {
        const ssize_t count = ::send(fd_, bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
        if (count < 0)
            TRY(after_failure(fd_, POLLOUT, errno, deadline));
        else
            bytes = bytes.subspan(static_cast<std::size_t>(count));
    }
    return {};
}

}  // namespace nbd
