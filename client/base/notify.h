// SPDX-License-Identifier: MIT
// Tells the service manager that we are ready, and what we are doing (sd_notify protocol).
#pragma once

#include "client/base/fd.h"

#include <string_view>

namespace nbd {

class Notifier {
public:
    /// Takes $NOTIFY_SOCKET out of the environment so that no child inherits it. Inactive without
    /// it.
    static Notifier from_environment();
    bool active() const { return static_cast<bool>(socket_); }
    void ready(std::string_view status);
    void status(std::string_view status);
    void stopping();

private:
    void send(std::string_view message);
    Fd socket_;  ///< connected datagram socket; sends never block
};

}  // namespace nbd
