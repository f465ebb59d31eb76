// SPDX-License-Identifier: MIT
// Feeds bytes to the handshake as if a server had sent them; the first byte chooses what we ask
// for.
#include "client/protocol/handshake.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <span>
#include <string>

namespace {

using nbd::Deadline;
using nbd::Error;
using nbd::Result;

void require(bool holds) {
    if (!holds) std::abort();
}

/// What the server sends, whatever it is told; then the connection is closed.
class Bytes final : public nbd::Stream {
public:
    explicit Bytes(std::span<const std::uint8_t> bytes) : rest_(bytes) {}

    Result<void> read_exactly(std::span<std::byte> buffer, const Deadline&) override {
        require(buffer.size() <= nbd::max_reply_data);
        const std::size_t count = std::min(buffer.size(), rest_.size());
        if (count > 0) std::memcpy(buffer.data(), rest_.data(), count);
        rest_ = rest_.subspan(count);
        if (count < buffer.size()) return Error{nbd::Kind::protocol, "closed"};
        return {};
    }
    Result<void> write_all(std::span<const std::byte> bytes, const Deadline&) override {
        written_ += bytes.size();
        // A greeting, a list, an INFO, a GO and an EXPORT_NAME, each with a short name.
        require(written_ < 1024);
        return {};
    }

private:
    std::span<const std::uint8_t> rest_;
    std::size_t written_ = 0;
};

void check_error(const Error& error) {
    require(error.what.starts_with("cannot "));
    for (const std::string& text : {error.what, error.hint})
        require(std::none_of(text.begin(), text.end(), [](char c) {
            return static_cast<unsigned char>(c) < 0x20 || c == '\x7f';
        }));
}

void check_info(const Result<nbd::ExportInfo>& info) {
    if (!info) return check_error(info.error());
    require(info->size <= nbd::max_export_size);
    require(info->name.size() <= nbd::max_string);
    require(info->description.size() <= nbd::max_string);
    require(!info->block_sizes || nbd::check_maximum(*info->block_sizes, info->size));
}

void check_list(const Result<std::vector<nbd::ListedExport>>& list) {
    if (!list) return check_error(list.error());
    require(list->size() <= nbd::max_listed_exports);
    for (const nbd::ListedExport& entry : *list) {
        require(entry.name.size() <= nbd::max_string);
        require(entry.description.size() <= nbd::max_string);
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size == 0) return 0;
    Bytes stream({data + 1, size - 1});
    auto handshake =
        nbd::Handshake::start(stream, "server", Deadline::in(std::chrono::seconds(60)));
    if (!handshake) {
        check_error(handshake.error());
        return 0;
    }
    switch (data[0] % 4) {
        case 0:
            check_info(handshake->go("name"));
            break;
        case 1:
            check_info(handshake->go("", false));
            break;
        case 2:
            check_info(handshake->info("name"));
            break;
        default:
            check_list(handshake->list());
            check_info(handshake->info("name"));
            break;
    }
    handshake->abort();
    return 0;
}
