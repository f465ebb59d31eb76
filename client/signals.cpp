// SPDX-License-Identifier: MIT
// TERM, INT and HUP as a descriptor that ends waits, instead of handlers.
#include "client/signals.h"

#include <cerrno>
#include <signal.h>
#include <sys/signalfd.h>
#include <unistd.h>

namespace nbd {

Result<Signals> Signals::block() {
    sigset_t set;
    sigemptyset(&set);
    for (const int number : {SIGTERM, SIGINT, SIGHUP}) sigaddset(&set, number);
    ::signal(SIGPIPE, SIG_IGN);
    if (::sigprocmask(SIG_BLOCK, &set, nullptr) != 0)
        return errno_error(Kind::internal, "block signals", errno);
    Fd fd(::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
    if (!fd) return errno_error(Kind::internal, "create a signalfd", errno);
    return Signals(std::move(fd));
}

std::optional<int> Signals::take() const {
    signalfd_siginfo info{};
    if (::read(fd_.get(), &info, sizeof info) != static_cast<ssize_t>(sizeof info))
        return std::nullopt;
    return static_cast<int>(info.ssi_signo);
}

}  // namespace nbd
