// SPDX-License-Identifier: MIT
// The verbs attach and reattach, from the command to the exit status, in fore- or background.
#pragma once

#include "client/command.h"

namespace nbd {

/// `line` is the whole command line, `argv` the process's own (for the '@' mark). Errors that
/// concern one of several devices are reported here; the exit status tells.
Result<int> run_attach(const AttachCommand& command, const CommandLine& line, char** argv);
Result<int> run_reattach(const ReattachCommand& command, const CommandLine& line, char** argv);

}  // namespace nbd
