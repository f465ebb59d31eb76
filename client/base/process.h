// SPDX-License-Identifier: MIT
// Work that may hang, done in a child process that can be left behind.
#pragma once

#include "client/base/deadline.h"

#include <functional>
#include <string>
#include <vector>

namespace nbd {

/// Forks, runs `work` in the child and returns what it returned, at most `limit` bytes. At the
/// deadline the child is killed; one that even SIGKILL cannot reach (uninterruptible sleep) is left
/// behind. Errors: unreachable (deadline), cancelled, internal. `work` must not rely on threads.
Result<std::string> run_in_child(const std::function<std::string()>& work, std::size_t limit,
                                 const Deadline& deadline);

/// Runs a program found in the system's own directories, without shell, output discarded; returns
/// its exit status. Kind::absent when there is no such program.
Result<int> run_program(const std::vector<std::string>& arguments, const Deadline& deadline);

}  // namespace nbd
