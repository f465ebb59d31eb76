// SPDX-License-Identifier: MIT
// Rows, exports and export information as tables, raw lines, blocks or JSON, from one column table.
#pragma once

#include "client/command.h"
#include "client/devices.h"
#include "client/protocol/handshake.h"

#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace nbd {

/// Names of all columns of `list`, in their documented order.
std::vector<std::string_view> column_names();
/// One line on what a column shows; empty for a name that is none.
std::string_view column_help(std::string_view name);

/// The whole answer of `list`: JSON, else blocks, else a table (its headings only above rows). With
/// --raw fields are parted by one space, spaces inside are \x20, unknown is empty. Unknown
/// columns are a usage error with the nearest name.
Result<std::string> render_list(const ListCommand& command, std::span<const DeviceRow> rows);
std::string render_exports(std::span<const ListedExport> exports, bool json);
/// `target` is what was asked.
std::string render_info(const Target& target, const ExportInfo& info, bool json);

}  // namespace nbd
