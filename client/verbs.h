// SPDX-License-Identifier: MIT
// Runs a command line: dispatches to the use cases and prints their results in the caller's
// dialect.
#pragma once

#include "client/command.h"

namespace nbd {

/// Returns the exit status of the verb grammar; `argv` is the process's own (for the '@' mark).
Result<int> run(const CommandLine& line, char** argv);

}  // namespace nbd
