// SPDX-License-Identifier: MIT
// A point in time that bounds waits, and the one cancellable wait for a descriptor.
#include "client/base/deadline.h"

#include "client/base/fd.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <poll.h>

namespace nbd {

namespace {

enum class Wake { ready, expired, cancelled, failed };

Wake wait(int fd, short events, const Deadline& deadline) {
    for (;;) {
        // poll() ignores entries with a negative descriptor, so both are optional.
        std::array<pollfd, 2> fds = {pollfd{fd, events, 0},
                                     pollfd{deadline.cancel_fd(), POLLIN, 0}};
        const int count = ::poll(fds.data(), fds.size(), deadline.poll_timeout());
        if (count < 0 && errno == EINTR) continue;
        if (count < 0) return Wake::failed;
        if (fds[1].revents != 0) return Wake::cancelled;
        if (fds[0].revents != 0) return Wake::ready;
        if (deadline.expired()) return Wake::expired;
    }
}

}  // namespace

Deadline Deadline::at_most(Clock::duration duration) const {
    return Deadline(std::min(time_, Clock::now() + duration), cancel_fd_);
}

int Deadline::poll_timeout() const {
    using namespace std::chrono;
    const auto left = ceil<milliseconds>(time_ - Clock::now());
    return static_cast<int>(std::clamp<milliseconds>(left, 0ms, hours(24)).count());
}

Result<void> wait_for(int fd, short events, const Deadline& deadline) {
    switch (wait(fd, events, deadline)) {
        case Wake::ready:
            return {};
        case Wake::expired:
            return Error{Kind::unreachable, "timed out"};
        case Wake::cancelled:
            return Error{Kind::cancelled, "interrupted"};
        case Wake::failed:
            break;
    }
    return errno_error(Kind::internal, "wait for a descriptor", errno);
}

bool pause_until(const Deadline& deadline) {
    return wait(-1, 0, deadline) == Wake::expired;
}

}  // namespace nbd
