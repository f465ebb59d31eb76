// SPDX-License-Identifier: MIT
// Work in processes of its own: a child that may hang, a program, one that outlives us.
#pragma once

#include "client/base/deadline.h"

#include <functional>
#include <span>
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

/// Runs `work` in a process that nobody has to wait for and that outlives us; it ends with it. Of
/// our descriptors it has `kept` only, under their numbers. Signals are as for a new program.
/// `work` must not rely on threads, nor on locks that one may hold.
Result<void> leave_behind(const std::function<void()>& work, std::span<const int> kept);

}  // namespace nbd
