// SPDX-License-Identifier: MIT
// One line per record to one sink, never blocking: the sink may be waiting for our own device.
#pragma once

#include "client/base/result.h"

#include <cstdint>
#include <string_view>

namespace nbd {

enum class Level { error, warning, info, debug };

/// Where records go: `automatic` is the journal format when stderr is the journal, else plain
/// stderr.
enum class LogTarget { automatic, stderr_stream, journal, kmsg };

/// Chooses level and sink; call once before the first record. Opening kmsg may fail: then stderr.
void open_log(Level level, LogTarget target);
bool log_enabled(Level level);

/// Writes one record. Records the sink cannot take at once are dropped and counted; the next one
/// that fits reports the count. Control characters never reach the sink.
void log(Level level, std::string_view text);

/// "nbd-client: <what>" and, where there is one, "hint: <hint>".
void log_error(const Error& error);

}  // namespace nbd
