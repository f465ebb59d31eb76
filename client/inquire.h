// SPDX-License-Identifier: MIT
// Asks a server about its exports without attaching one.
#pragma once

#include "client/base/deadline.h"
#include "client/protocol/handshake.h"
#include "client/request.h"

#include <vector>

namespace nbd {

/// Size, flags and block sizes of the request's target.
Result<ExportInfo> ask_info(const AttachRequest& request, const Deadline& deadline);

/// What the server lists, with sizes where it tells them.
Result<std::vector<ListedExport>> ask_exports(const AttachRequest& request,
                                              const Deadline& deadline);

}  // namespace nbd
