// SPDX-License-Identifier: MIT
// The answer on stdout, whole or not at all.
#pragma once

#include <string_view>

namespace nbd {

/// Writes to stdout; a reader that has gone away is not our failure.
void print(std::string_view text);

/// Writes a line to stderr word for word: the classic lines scripts look for.
void complain(std::string_view line);

}  // namespace nbd
