// SPDX-License-Identifier: MIT
// Feeds text to the URI parser: what it takes prints and parses back to the same, what it refuses
// is explained.
#include "client/protocol/uri.h"
#include "client/protocol/wire.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

namespace {

void require(bool holds) {
    if (!holds) std::abort();
}

bool is_clean(const std::string& text) {
    return std::none_of(text.begin(), text.end(),
                        [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == '\x7f'; });
}

void check_refusal(const nbd::Error& error) {
    require(error.what.starts_with("cannot use "));
    require(is_clean(error.what) && is_clean(error.hint));
}

void check_target(const nbd::Target& target) {
    require(target.export_name.size() <= nbd::max_string);
    require(is_clean(nbd::to_string(target.endpoint)));
    const std::string canonical = nbd::to_uri(target);
    const auto again = nbd::parse_uri(canonical);
    require(again.has_value());
    require(again->endpoint == target.endpoint && again->export_name == target.export_name);
    require(again->tls.has_value() == target.tls.has_value());
    require(nbd::to_uri(*again) == canonical);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string text(data, data + size);
    const auto target = nbd::parse_uri(text);
    target ? check_target(*target) : check_refusal(target.error());
    const auto endpoint = nbd::parse_host(text);
    endpoint ? check_target({*endpoint, {}}) : check_refusal(endpoint.error());
    return 0;
}
