// SPDX-License-Identifier: MIT
// Goes on in the background once the device is ready, with a true exit code for who started us.
#pragma once

#include "client/base/fd.h"
#include "client/base/result.h"

#include <optional>

namespace nbd {

/// The child's way to let its parent go. The parent waits in split() and never returns from there
/// before the child has either said how it went or died.
class Background {
public:
    struct Parent {
        int exit_status;
    };
    /// Forks. In the parent: the exit status to leave with. In the child: nothing, and the work
    /// goes on here with the caller's stdout and stderr until detach().
    Result<std::optional<Parent>> split();

    /// Lets the parent leave with success, and cuts the child's ties: session, directory, stdio.
    void detach();
    /// True in a child that has not called detach() yet.
    bool attached() const { return static_cast<bool>(report_); }

private:
    Fd report_;
};

}  // namespace nbd
