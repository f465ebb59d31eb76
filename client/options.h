// SPDX-License-Identifier: MIT
// The verb grammar: argv to CommandLine, help and completion words.
#pragma once

#include "client/command.h"

#include <span>
#include <string>
#include <vector>

namespace nbd {

/// Parses the arguments after argv[0]. The first word behind -v, -q and --log-target decides the
/// dialect: a verb, --help, --version or nothing at all is the verb grammar (nothing means list);
/// anything else is classic.
/// Errors are usage errors that name the nearest verb or option in their hint.
Result<CommandLine> parse_command_line(const std::vector<std::string>& arguments);

/// Whether the words are of the classic dialect, where every failure, also one to understand them,
/// has the exit code 1.
bool is_classic(const std::vector<std::string>& arguments);

/// The verbs in the order help shows them.
std::span<const std::string_view> verbs();

}  // namespace nbd
