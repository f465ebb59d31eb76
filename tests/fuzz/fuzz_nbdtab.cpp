// SPDX-License-Identifier: MIT
// Feeds bytes to the nbdtab parser: every line ends as a record, a complaint or nothing.
#include "client/attach_options.h"
#include "client/nbdtab.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string text(data, data + size);
    const auto lines = static_cast<std::size_t>(std::ranges::count(text, '\n')) + 1;
    const nbd::Nbdtab tab = nbd::parse_nbdtab(text, "nbdtab");
    if (tab.records.size() + tab.complaints.size() > lines) std::abort();
    for (const nbd::NbdtabRecord& record : tab.records) {
        nbd::AttachRequest request;
        request.target = record.target;
        if (tab.find(record.device) != &record) std::abort();
        if (!nbd::apply_settings(request, record.settings)) std::abort();
    }
    return 0;
}
