// SPDX-License-Identifier: MIT
// The classic dialect: translates the reference nbd-client's command line into a CommandLine.
#pragma once

#include "client/command.h"

#include <string>
#include <vector>

namespace nbd {

/// Parses the arguments after argv[0] as the reference's getopt_long_only did: one dash or two,
/// unique abbreviations, glued values, options and positionals in any order, bs= and timeout=
/// words.
Result<CommandLine> parse_classic(const std::vector<std::string>& arguments);

}  // namespace nbd
