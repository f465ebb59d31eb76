// SPDX-License-Identifier: MIT
// TERM, INT and HUP as a descriptor that ends waits, instead of handlers.
#pragma once

#include "client/base/fd.h"

#include <optional>

namespace nbd {

class Signals {
public:
    /// Blocks the signals for this process and every thread it starts later; PIPE is ignored.
    static Result<Signals> block();
    /// Readable while a signal is pending: the cancel descriptor of a Deadline.
    int fd() const { return fd_.get(); }
    /// The next pending signal's number.
    std::optional<int> take() const;

private:
    explicit Signals(Fd fd) : fd_(std::move(fd)) {}
    Fd fd_;
};

}  // namespace nbd
