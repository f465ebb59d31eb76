// SPDX-License-Identifier: MIT
// Tells the service manager that we are ready, and what we are doing (sd_notify protocol).
#include "client/base/notify.h"

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <string>
#include <sys/socket.h>
#include <sys/un.h>

namespace nbd {
namespace {

/// sd_notify(3): an absolute path, or an abstract name written with '@'.
Fd connect_to(std::string_view path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path.size() < 2 || path.size() >= sizeof(address.sun_path)) return {};
    if (path.front() != '/' && path.front() != '@') return {};
    path.copy(static_cast<char*>(address.sun_path), path.size());
    if (path.front() == '@') address.sun_path[0] = '\0';

    Fd socket_fd(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    const auto length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + path.size());
    if (connect(socket_fd.get(), reinterpret_cast<const sockaddr*>(&address), length) != 0)
        return {};
    return socket_fd;
}

/// One assignment; a line feed in the value would begin another one.
std::string status_line(std::string_view status) {
    std::string line = "STATUS=" + std::string(status);
    std::replace(line.begin(), line.end(), '\n', ' ');
    return line;
}

}  // namespace

Notifier Notifier::from_environment() {
    Notifier notifier;
    if (const char* const path = secure_getenv("NOTIFY_SOCKET"); path != nullptr) {
        notifier.socket_ = connect_to(path);
        unsetenv("NOTIFY_SOCKET");
    }
    return notifier;
}

void Notifier::ready(std::string_view status) {
    send("READY=1\n" + status_line(status));
}

void Notifier::status(std::string_view status) {
    send(status_line(status));
}

void Notifier::stopping() {
    send("STOPPING=1");
}

void Notifier::send(std::string_view message) {
    if (!active()) return;
    // A manager that does not listen must not stop us: the message may be lost.
    (void)::send(socket_.get(), message.data(), message.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
}

}  // namespace nbd
