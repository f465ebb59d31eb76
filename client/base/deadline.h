// SPDX-License-Identifier: MIT
// A point in time that bounds waits, and the one cancellable wait for a descriptor.
#pragma once

#include "client/base/result.h"

#include <chrono>

namespace nbd {

using Clock = std::chrono::steady_clock;

/// When to stop waiting, and optionally a descriptor (a signalfd, an eventfd) that ends every wait
/// at once as soon as it becomes readable. The descriptor is borrowed and never read here.
class Deadline {
public:
    static Deadline in(Clock::duration duration, int cancel_fd = -1) {
        return Deadline(Clock::now() + duration, cancel_fd);
    }
    static Deadline at(Clock::time_point time, int cancel_fd = -1) {
        return Deadline(time, cancel_fd);
    }

    /// The same cancellation, but ending after `duration` if that is earlier.
    Deadline at_most(Clock::duration duration) const;
    bool expired() const { return Clock::now() >= time_; }
    Clock::time_point time() const { return time_; }
    int cancel_fd() const { return cancel_fd_; }
    /// Time left as poll() wants it: milliseconds rounded up, 0 when expired, capped at a day.
    int poll_timeout() const;

private:
    Deadline(Clock::time_point time, int cancel_fd) : time_(time), cancel_fd_(cancel_fd) {}
    Clock::time_point time_;
    int cancel_fd_;
};

/// Waits until `fd` has one of the poll `events` (or an error condition). Fails with
/// Kind::unreachable ("timed out") at the deadline and Kind::cancelled when the cancel descriptor
/// becomes readable; the sentence names no object: the caller does.
Result<void> wait_for(int fd, short events, const Deadline& deadline);

/// Lets time pass until the deadline; false when cancelled.
bool pause_until(const Deadline& deadline);

}  // namespace nbd
